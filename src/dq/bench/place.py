"""Where a bench is done: an empty directory, gone afterwards, and never one with somebody's streams in it."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dq.bench.machine import is_memory, machine
from dq.errors import InvalidSetting


@contextlib.contextmanager
def scratch(wished: Path | None) -> Iterator[Path]:
    """An empty directory.

    Args:
        wished: one that is empty or missing. None: a new one among the temporary files or, where these are in memory, here.

    Raises:
        InvalidSetting: there is something in it. OSError: it cannot be made.
    """
    if wished is None:
        base = Path(tempfile.gettempdir())
        if is_memory(machine(base)["filesystem"]):
            base = Path.cwd()
        made = Path(tempfile.mkdtemp(prefix="dq-bench-", dir=base))
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)
        return
    was_there = wished.exists()
    if was_there and (not wished.is_dir() or any(wished.iterdir())):
        raise InvalidSetting(
            f"{wished} is not an empty directory, and a bench is done in nothing else: name another with --data"
        )
    wished.mkdir(mode=0o700, exist_ok=True)
    try:
        yield wished
    finally:
        for path in wished.iterdir():
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        if not was_there:
            with contextlib.suppress(OSError):
                wished.rmdir()

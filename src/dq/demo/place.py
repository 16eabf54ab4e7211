"""The demonstration's own directory: emptied at each run, and nobody else's ever."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

from dq.config import LIMITS
from dq.demo.failed import DemoFailed
from dq.errors import BrokerRunning
from dq.log.layout import Layout
from dq.log.locks import hold

MARK = "demo.json"
_MARK_CONTENT = json.dumps({"dq": "demonstration", "note": "python -m dq.main empties this directory at its next run"}) + "\n"


def claim(directory: Path) -> None:
    """Makes the directory, or empties the one that an earlier run left.

    Raises:
        BrokerRunning: another run, or a broker, is using it; the message names its pid.
        DemoFailed: there is something else in it.
    """
    mark = directory / MARK
    if directory.is_dir():
        if mark.is_file():
            _empty(directory)
        elif any(directory.iterdir()):
            raise DemoFailed(
                f"{directory} is not empty and no directory of this demonstration, so it is left alone: "
                "name another one with --data"
            )
    elif directory.exists():
        raise DemoFailed(f"{directory} is a file: name a directory with --data")
    else:
        directory.mkdir(mode=0o700, parents=True)
    mark.write_text(_MARK_CONTENT, "utf-8")


def _empty(directory: Path) -> None:
    """Removes what a broker makes, and nothing else.

    The lock files stay: whoever still has one open would hold a lock beside its successor's.
    """
    layout = Layout(directory)
    with contextlib.ExitStack() as held:
        held.enter_context(hold(layout.manager_lock, 0.0, str(directory), BrokerRunning))
        for lock in (layout.streams_lock, layout.sinks_lock):
            if lock.parent.is_dir():  # a broker whose manager was killed may still be writing
                held.enter_context(hold(lock, LIMITS.lock_wait_seconds, str(lock.parent)))
        for part in (layout.streams, layout.sinks):
            for path in part.iterdir() if part.is_dir() else ():
                if not path.name.startswith("writer.lock"):
                    _remove(path)
        for path in (layout.quarantine, layout.instance, layout.socket):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

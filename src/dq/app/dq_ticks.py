"""`FileTicks`: the states of schedules in files of a data directory, as `ticks.py` says why."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from dq.app.ticks import TICK_HEADER, Held, TickState
from dq.client.reader import Reader
from dq.errors import Damaged, InUse, RecordsTrimmed, UnknownStream
from dq.log.directories import make_directory
from dq.log.files import Files, mapped
from dq.log.locks import hold
from dq.model.shown import shown

_FILE_BYTES_MAX = 65_536


class FileTicks:
    """States in `every/` of a data directory: for each schedule a file of JSON and a lock.

    Args:
        broker: the broker's handle.
    """

    def __init__(self, broker: Any) -> None:
        self._broker, self._files = broker, Files()
        self._directory = Path(broker.root) / "every"

    @contextlib.contextmanager
    def hold(self, name: str) -> Iterator[Held | None]:
        """As `TickStore.hold`.

        Raises:
            LogError: the directory or the file cannot be used.
        """
        make_directory(self._files, self._directory)
        try:
            lock = hold(self._directory / f"{name}.lock", 0.0, f"the schedule {name!r}")
        except InUse:
            yield None
            return
        with lock:
            yield _HeldOnDisk(self._files, self._directory / f"{name}.json", self._broker)


class _HeldOnDisk:
    """As `Held`."""

    def __init__(self, files: Files, path: Path, broker: Any) -> None:
        self._files, self._path, self._broker = files, path, broker
        self.state = _read(files, path)

    def keep(self) -> None:
        """Raises LogError: the disk does not take it."""
        with mapped(self._path, "write"):
            self._files.write_atomically(self._path, orjson.dumps(asdict(self.state), option=orjson.OPT_APPEND_NEWLINE))

    def end_of(self, stream: str) -> str:
        try:
            with Reader(self._broker, stream) as reader:
                return reader.position
        except UnknownStream:
            return ""

    def stands(self, stream: str, mark: str) -> bool:
        try:
            with Reader(self._broker, stream, start=self.state.place or "oldest", follow=False) as reader:
                return any(record.headers.get(TICK_HEADER) == mark for record in reader)
        except UnknownStream:
            return False
        except RecordsTrimmed:
            return True


def _read(files: Files, path: Path) -> TickState:
    try:
        content = files.read_whole(path, _FILE_BYTES_MAX)
    except FileNotFoundError:
        return TickState()
    try:
        state = TickState(**orjson.loads(content))
        numbers = [state.last, state.begun]
        if not all(value is None or type(value) in (int, float) for value in numbers) or type(state.place) is not str:
            raise TypeError("its values are of other types")
    except (ValueError, TypeError) as error:
        raise Damaged(
            f"{path} has {shown(content)}, and not what is kept of a schedule ({error}): remove it, and the schedule begins "
            "anew with the next tick"
        ) from error
    return state

"""The floor: the same bytes, written and flushed by a bare loop on the same disk. `benchmarks/` uses this too."""

from __future__ import annotations

import os
import time
from pathlib import Path


class Floor:
    """A file to which lines are appended, each write with its `fdatasync`.

    Args:
        directory: where; the file is gone with `close`.
        line: what is written.
        sync: whether it is flushed.
    """

    def __init__(self, directory: Path, line: bytes, *, sync: bool = True) -> None:
        self._path = directory / "bare.log"
        self._fd = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_TRUNC, 0o600)
        self._line, self._flush = line, os.fdatasync if sync and hasattr(os, "fdatasync") else os.fsync if sync else _nothing

    def rate(self, count: int, batch: int = 1, most: float = 1e9) -> float:
        """Lines a second, so many in a write; not longer than `most` seconds."""
        fd, lines, flush, writes = self._fd, self._line * batch, self._flush, max(count // batch, 1)
        began = now = time.perf_counter()
        done = 0
        while done < writes and now - began <= most:
            os.write(fd, lines)
            flush(fd)
            done, now = done + 1, time.perf_counter()
        return done * batch / (now - began)

    def sync_seconds(self, count: int, every: float = 0.0, most: float = 1e9) -> list[float]:
        """How long each flush took; one every so many seconds, or one after the other; not longer than `most` seconds."""
        fd, line, took, flush = self._fd, self._line, list[float](), self._flush
        due = time.monotonic()
        until = due + most
        for _ in range(count):
            now = time.monotonic()
            if now > until:
                break
            if due > now:
                time.sleep(due - now)
            due += every
            os.write(fd, line)
            began = time.perf_counter()
            flush(fd)
            took.append(time.perf_counter() - began)
        return took

    def close(self) -> None:
        """Deletes the file."""
        os.close(self._fd)
        self._path.unlink(missing_ok=True)


def _nothing(_: int) -> None:
    """Of a stream that is not flushed."""

"""The disk in memory, whose calls fail on demand as those of Linux do."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from sim_files import FaultyFiles, MemoryFiles, Node


class DoomedFlushError(AssertionError):
    """A file was written to or flushed again after a flush of it had failed, in the same life."""


class FaultyMemory(FaultyFiles, MemoryFiles):
    """A disk in memory whose calls fail on demand, as Linux fails: what a failed flush did not write is never written.

    Within one life nothing may be written to a file, and no file or directory may be flushed, once a flush of it has failed.
    """

    def __init__(self, chance: random.Random | None = None) -> None:
        super().__init__()
        self._chance = chance or random.Random(0)
        self._doomed: set[Node] = set()

    @classmethod
    def over(cls, disk: MemoryFiles) -> FaultyMemory:
        """The same disk, with calls that can fail."""
        files = cls()
        files._root = disk._root
        return files

    def new_life(self) -> None:
        """The writer that met a failed flush is gone; its successor may go on."""
        self._doomed.clear()

    def _check(self, node: Node, act: str) -> None:
        if node in self._doomed:
            raise DoomedFlushError(f"{act} after a flush had failed")

    def fdatasync(self, fd: int) -> None:
        node = self._fds[fd]
        self._check(node, "fdatasync")
        try:
            super().fdatasync(fd)
        except OSError:
            node.flush_fails(self._chance)
            self._doomed.add(node)
            raise

    def sync_directory(self, path: Path) -> None:
        node = self._directory(path)
        self._check(node, f"sync of {path}")
        try:
            super().sync_directory(path)
        except OSError:
            node.flush_fails(self._chance)
            self._doomed.add(node)
            raise

    def write_some(self, fd: int, group: Sequence[bytes | bytearray | memoryview], position: int) -> int:
        self._check(self._fds[fd], "write")
        return super().write_some(fd, group, position)

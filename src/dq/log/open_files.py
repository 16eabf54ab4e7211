"""A bound on the files that a process keeps open: the one longest unused is closed first, one in use never."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path


class OpenFiles:
    """The files that are open now, in the order of their last use. Safe to share between threads."""

    def __init__(self, close: Callable[[int], None], count_max: int) -> None:
        self._close_fd, self._count_max = close, count_max
        self._open: dict[KeptFile, None] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._open)

    def take(self, kept: KeptFile) -> int:
        """Opens `kept` if it is not, and marks it as in use. Raises what its opener raises."""
        with self._lock:
            if kept.fd < 0:
                self._make_room()
                kept.fd = kept.opener(kept.path)
            else:
                del self._open[kept]
            self._open[kept] = None
            kept.users += 1
            return kept.fd

    def put(self, kept: KeptFile) -> None:
        """The end of one use."""
        with self._lock:
            kept.users -= 1

    def drop(self, kept: KeptFile) -> None:
        """Closes `kept`; nobody may be using it."""
        with self._lock:
            if kept.fd >= 0:
                self._close(kept)

    def _make_room(self) -> None:
        if len(self._open) < self._count_max:
            return
        for kept in self._open:
            if not kept.users:
                self._close(kept)
                return

    def _close(self, kept: KeptFile) -> None:
        del self._open[kept]
        fd, kept.fd = kept.fd, -1
        self._close_fd(fd)


class KeptFile:
    """A file that is opened when it is used and may be closed when it is not: `with kept as fd: ...`."""

    __slots__ = ("fd", "opened", "opener", "path", "users")

    def __init__(self, opened: OpenFiles, path: Path, opener: Callable[[Path], int]) -> None:
        self.opened, self.path, self.opener, self.fd, self.users = opened, path, opener, -1, 0

    def __enter__(self) -> int:
        return self.opened.take(self)

    def __exit__(self, *_: object) -> None:
        self.opened.put(self)

    def close(self) -> None:
        """Closes the file; it opens again at its next use."""
        self.opened.drop(self)

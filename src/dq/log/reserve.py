"""Room kept free beside the sinks, so that acks can still be noted when the disk is full."""

from __future__ import annotations

import contextlib
from pathlib import Path

from dq.log.files import Files


class Reserve:
    """A file that holds `size` bytes of the disk until they are needed. Shared by all sinks of a directory."""

    def __init__(self, files: Files, path: Path, size: int) -> None:
        self._files, self._path, self._size = files, path, size

    def fill(self) -> bool:
        """Takes the room again if it was given up. False when there is none yet; never raises."""
        try:
            if self._files.state(self._path).st_size >= self._size:
                return True
            self._files.unlink(self._path)
        except FileNotFoundError:
            pass
        except OSError:
            return False
        return self._take()

    def _take(self) -> bool:
        try:
            fd = self._files.create(self._path)
        except OSError:
            return False
        try:
            self._files.allocate(fd, self._size)
        except OSError:
            with contextlib.suppress(OSError):
                self._files.unlink(self._path)
            return False
        finally:
            self._files.close(fd)
        return True

    def release(self) -> bool:
        """Gives the room up for something more urgent. False if there was none left to give."""
        try:
            self._files.unlink(self._path)
        except OSError:
            return False
        return True

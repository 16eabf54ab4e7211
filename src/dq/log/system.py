"""What differs between the systems that dq runs on, as far as files go: here and nowhere else in `log`.

Linux is where all of dq runs. macOS has another flush. On Windows the embedded queues run: there a file is read and
written at a place by moving its pointer, a directory cannot be flushed, and neither owners nor modes say who may write.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

_WRITABLE_BY_OTHERS = 0o022
Parts = Sequence[bytes | bytearray | memoryview]

if sys.platform == "win32":  # pragma: no cover - tests/embedded/test_windows.py runs it with the calls of POSIX taken away
    OPEN_FLAGS = os.O_BINARY | os.O_NOINHERIT
    LOCK_FLAGS = os.O_RDWR | os.O_CREAT | OPEN_FLAGS
    _MOVING = threading.Lock()  # from the move of a file's pointer to the end of the read or write

    def flush(fd: int) -> None:
        """What was written is on disk."""
        os.fsync(fd)

    def drop_cache(fd: int) -> None:
        """The cache cannot be dropped there."""

    def allocate(fd: int, size: int) -> None:
        """Takes so many bytes of the disk."""
        pwritev(fd, [bytes(size)], 0)

    def pread(fd: int, size: int, position: int) -> bytes:
        """At most `size` bytes from `position`; fewer only at the end of the file."""
        parts = []
        with _MOVING:
            os.lseek(fd, position, os.SEEK_SET)
            while size and (part := os.read(fd, size)):
                parts.append(part)
                size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def pwritev(fd: int, parts: Parts, position: int) -> int:
        """Writes `parts` at `position`; says how much of them."""
        content = parts[0] if len(parts) == 1 else b"".join(parts)
        with _MOVING:
            os.lseek(fd, position, os.SEEK_SET)
            return os.write(fd, content)

    def sync_directory(path: Path) -> None:
        """Names are flushed with their file there."""

    def owner() -> int | None:
        """The user whose files are ours; None where files do not say."""
        return None

    def is_writable_by_others(state: os.stat_result) -> bool:
        """Whether other users may write; not known there."""
        return False

    def is_locked(path: Path) -> bool | None:
        """Whether a lock is held, without taking it; None where that cannot be seen."""
        return None

    def lives(pid: int) -> bool | None:
        """Whether a process runs; None where it cannot be asked. (os.kill would end it there.)"""
        return None

else:
    import fcntl

    OPEN_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # without O_NONBLOCK the open of a FIFO waits for its other end
    LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    pread = os.pread
    pwritev = os.pwritev

    if sys.platform == "darwin":  # pragma: no cover

        def flush(fd: int) -> None:
            """What was written is on disk; fsync there stops at the disk's own cache."""
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)

        def drop_cache(fd: int) -> None:
            """The next read shows what the disk has."""
            fcntl.fcntl(fd, fcntl.F_NOCACHE, 1)

        def allocate(fd: int, size: int) -> None:
            """Takes so many bytes of the disk."""
            os.pwrite(fd, bytes(size), 0)

    else:
        flush = os.fdatasync

        def drop_cache(fd: int) -> None:
            """The next read shows what the disk has."""
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

        def allocate(fd: int, size: int) -> None:
            """Takes so many bytes of the disk."""
            os.posix_fallocate(fd, 0, size)

    def sync_directory(path: Path) -> None:
        """The names in it are on disk."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def owner() -> int | None:
        """The user whose files are ours; None where files do not say."""
        return os.geteuid()

    def is_writable_by_others(state: os.stat_result) -> bool:
        """Whether other users may write."""
        return bool(state.st_mode & _WRITABLE_BY_OTHERS)

    def is_locked(path: Path) -> bool | None:
        """Whether a lock is held, without taking it; None where that cannot be seen. Raises FileNotFoundError."""
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def lives(pid: int) -> bool | None:
        """Whether a process runs; None where it cannot be asked."""
        try:
            os.kill(pid, 0)
        except PermissionError:
            return True  # another user's
        except (OverflowError, OSError):
            return False
        return True

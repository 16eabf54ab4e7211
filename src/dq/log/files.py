"""The one layer through which dq touches files, so that a test can make any call fail.

Files are 0600, directories 0700, nothing is inherited by a child, no symbolic link is followed at a path's end. What
differs between systems is in `system.py`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from dq.config import LIMITS
from dq.errors import Damaged, LogError
from dq.log import system
from dq.log.open_files import OpenFiles

_PARTS_MAX = 1024  # IOV_MAX: what one pwritev takes

# No room, and nothing wrong with the disk: no room on it, in a quota, in a file, or in the table of open files.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EMFILE, errno.ENFILE})


@contextlib.contextmanager
def mapped(path: Path, act: str) -> Iterator[None]:
    """Turns an OSError into a LogError that names the path. `act` is the verb: "read", "write".

    Raises:
        LogError: the system refused; never taken for the end of a file.
    """
    try:
        yield
    except OSError as error:
        raise LogError(f"cannot {act} {path}: {error.strerror or error}") from error


class Files:
    """System calls as methods. All raise OSError as the system does, except where they say otherwise."""

    def __init__(self, open_files_max: int = LIMITS.open_files_max) -> None:
        self.opened = OpenFiles(self.close, open_files_max)

    # --- opening -----------------------------------------------------------------------------------------------------
    def create(self, path: Path) -> int:
        """A new file for reading and writing. Raises FileExistsError."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | system.OPEN_FLAGS, 0o600)

    def open_read(self, path: Path) -> int:
        """Raises Damaged when the path is not a plain file of ours."""
        return self._open(path, os.O_RDONLY)

    def open_write(self, path: Path) -> int:
        """An existing file for reading and writing. Raises Damaged as `open_read` does."""
        return self._open(path, os.O_RDWR)

    def _open(self, path: Path, flags: int) -> int:
        try:
            fd = os.open(path, flags | system.OPEN_FLAGS)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
                raise Damaged(
                    f"{path} is not a plain file ({error.strerror}): move it away and put the real one back"
                ) from error
            raise
        try:
            self._check_plain(path, os.fstat(fd))
        except BaseException:
            os.close(fd)
            raise
        return fd

    @staticmethod
    def _check_plain(path: Path, state: os.stat_result) -> None:
        if not stat.S_ISREG(state.st_mode):
            raise Damaged(f"{path} is not a plain file: move it away and put the real one back")
        owner = system.owner()
        if owner not in (None, state.st_uid):
            raise Damaged(f"{path} belongs to uid {state.st_uid}, not to {owner}: see who put it there, then chown it")
        if system.is_writable_by_others(state):
            raise Damaged(f"{path} can be written by other users: see who did, then chmod 600 {path}")

    def close(self, fd: int) -> None:
        os.close(fd)

    # --- bytes -------------------------------------------------------------------------------------------------------
    def pread(self, fd: int, size: int, position: int) -> bytes:
        """At most `size` bytes; fewer only at the end of the file."""
        return system.pread(fd, size, position)

    def pwritev(self, fd: int, parts: Sequence[bytes | bytearray | memoryview], position: int) -> None:
        """Writes all of `parts`, as many system calls as that takes."""
        for begin in range(0, len(parts), _PARTS_MAX):
            group = parts[begin : begin + _PARTS_MAX]
            position += self._write_group(fd, group, sum(map(len, group)), position)

    def _write_group(self, fd: int, group: Sequence[bytes | bytearray | memoryview], size: int, position: int) -> int:
        written = self.write_some(fd, group, position)
        if written < size:
            # A short write is rare and mostly the last sign before ENOSPC: one copy is cheaper than clever slicing.
            rest = memoryview(b"".join(group))
            while written < size:
                written += self.write_some(fd, [rest[written:]], position + written)
        return size

    def write_some(self, fd: int, group: Sequence[bytes | bytearray | memoryview], position: int) -> int:
        """One pwritev; may write less than all of it. Here a test makes writes short or fail."""
        return system.pwritev(fd, group, position)

    def write_on(self, fd: int, content: bytes | memoryview) -> int:
        """Writes where the file's pointer stands, a third cheaper than at a place; may write less than all of it."""
        return os.write(fd, content)

    def move(self, fd: int, position: int) -> None:
        """Sets the file's pointer."""
        os.lseek(fd, position, os.SEEK_SET)

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def allocate(self, fd: int, size: int) -> None:
        """Takes `size` bytes of the disk for the file. Raises OSError with ENOSPC where there is no room."""
        system.allocate(fd, size)

    # --- the disk ----------------------------------------------------------------------------------------------------
    def fdatasync(self, fd: int) -> None:
        """Raises OSError also where the file has no name any more: what is on disk then is nobody's."""
        system.flush(fd)
        if not os.fstat(fd).st_nlink:
            raise OSError(errno.ESTALE, "the file was deleted while it was written")

    def drop_cache(self, fd: int) -> None:
        """Forgets what is cached of the file, so that the next read shows what the disk has."""
        system.drop_cache(fd)

    def sync_directory(self, path: Path) -> None:
        """Makes names that were made, changed or deleted in `path` last."""
        system.sync_directory(path)

    # --- names -------------------------------------------------------------------------------------------------------
    def make_directory(self, path: Path) -> None:
        """One that is there already is left as it is."""
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                raise

    def list_directory(self, path: Path) -> list[str]:
        """Names in `path`, sorted."""
        return sorted(os.listdir(path))

    def state(self, path: Path) -> os.stat_result:
        """As `lstat`: of the link itself, were it one."""
        return os.lstat(path)

    def rename(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def remove_directory(self, path: Path) -> None:
        os.rmdir(path)

    def remove_tree(self, path: Path) -> None:
        """A file, or a directory with all that is in it; follows no links."""
        if stat.S_ISDIR(self.state(path).st_mode):
            for name in self.list_directory(path):
                self.remove_tree(path / name)
            self.remove_directory(path)
        else:
            self.unlink(path)

    # --- whole files -------------------------------------------------------------------------------------------------
    def read_whole(self, path: Path, bytes_max: int) -> bytes:
        """All of a small file.

        Raises:
            FileNotFoundError, NotADirectoryError: there is none.
            LogError: it cannot be read. Damaged: it is not a plain file, or larger than `bytes_max`.
        """
        try:
            fd = self.open_read(path)
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError as error:
            raise LogError(f"cannot open {path}: {error.strerror}") from error
        try:
            with mapped(path, "read"):
                size = self.size(fd)
                if size > bytes_max:
                    raise Damaged(f"{path} has {size:,} bytes where at most {bytes_max:,} are expected")
                return self.pread(fd, size, 0)
        finally:
            self.close(fd)

    def write_new(self, path: Path, content: bytes) -> None:
        """A new file with `content`, flushed; its directory is not. Leaves no half file after an error."""
        fd = self.create(path)
        try:
            self.pwritev(fd, [content], 0)
            self.fdatasync(fd)
        except BaseException:
            with contextlib.suppress(OSError):
                self.unlink(path)
            raise
        finally:
            self.close(fd)

    def write_atomically(self, path: Path, content: bytes) -> None:
        """Replaces `path`: at every moment, and after a power cut, either the old bytes or the new ones are there."""
        self.drop_unfinished(path)
        new = path.with_name(path.name + ".tmp")
        self.write_new(new, content)
        try:
            self.rename(new, path)
        except BaseException:
            with contextlib.suppress(OSError):
                self.unlink(new)
            raise
        self.sync_directory(path.parent)

    def drop_unfinished(self, path: Path) -> None:
        """Removes what is left of a replacement of `path` that never came to its end."""
        with contextlib.suppress(FileNotFoundError):
            self.unlink(path.with_name(path.name + ".tmp"))

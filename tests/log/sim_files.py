"""A disk in memory that forgets what was not flushed, and files that fail on demand."""

from __future__ import annotations

import errno
import os
import random
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dq.log.files import Files

SECTOR = 512


class Node:
    """A file: what programs see of it, and what the disk has of it."""

    def __init__(self, content: bytes = b"") -> None:
        self.seen, self.disk = bytearray(content), bytes(content)

    def after_power_cut(self, chance: random.Random) -> bytes:
        """Each sector as it was flushed or as it was written since; a length in between; NUL where nothing was written."""
        if bytes(self.seen) == self.disk:
            return self.disk
        low, high = sorted((len(self.disk), len(self.seen)))
        size = chance.choice((low, high, chance.randint(low, high)))
        kept = bytearray(self.disk[:size].ljust(size, b"\0"))
        for begin in range(0, size, SECTOR):
            if chance.random() < 0.5:
                kept[begin : begin + SECTOR] = self.seen[begin : begin + SECTOR].ljust(len(kept[begin : begin + SECTOR]), b"\0")
        return bytes(kept[:size])


class MemoryFiles(Files):
    """Files and directories in memory. `power_cut` gives what a disk may have after one."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[Path, Node | None] = {}  # None is a directory
        self.disk_names: dict[Path, Node | None] = {}
        self._fds: dict[int, Node] = {}
        self._next_fd = 1000

    def add(self, path: Path, content: bytes | None) -> None:
        """Puts a file, or with None a directory, on the disk."""
        self.names[path] = self.disk_names[path] = None if content is None else Node(content)

    def content(self, path: Path) -> bytes:
        node = self.names[path]
        assert node is not None
        return bytes(node.seen)

    def power_cut(self, chance: random.Random) -> MemoryFiles:
        """A new disk with all that was flushed and, by chance, some of what was not."""
        after = MemoryFiles()
        for path in {**self.disk_names, **self.names}:
            source = self.disk_names if chance.random() < 0.5 else self.names
            if path in source:
                node = source[path]
                after.add(path, None if node is None else node.after_power_cut(chance))
        return after

    # --- what Files does -----------------------------------------------------------------------------------------
    def _fd(self, node: Node) -> int:
        self._next_fd += 1
        self._fds[self._next_fd] = node
        return self._next_fd

    def create(self, path: Path) -> int:
        if path in self.names:
            raise FileExistsError(errno.EEXIST, "File exists", str(path))
        self.names[path] = node = Node()
        return self._fd(node)

    def _open(self, path: Path, flags: int) -> int:
        node = self.names.get(path)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, "No such file", str(path))
        return self._fd(node)

    def close(self, fd: int) -> None:
        del self._fds[fd]

    def pread(self, fd: int, size: int, position: int) -> bytes:
        return bytes(self._fds[fd].seen[position : position + size])

    def write_some(self, fd: int, group: Sequence[bytes | bytearray | memoryview], position: int) -> int:
        content = b"".join(group)
        seen = self._fds[fd].seen
        if content:
            seen.extend(bytes(max(0, position - len(seen))))
        seen[position : position + len(content)] = content
        return len(content)

    def truncate(self, fd: int, size: int) -> None:
        del self._fds[fd].seen[size:]

    def size(self, fd: int) -> int:
        return len(self._fds[fd].seen)

    def allocate(self, fd: int, size: int) -> None:
        self._fds[fd].seen.extend(bytes(size))

    def fdatasync(self, fd: int) -> None:
        node = self._fds[fd]
        node.disk = bytes(node.seen)

    def drop_cache(self, fd: int) -> None:
        pass

    def sync_directory(self, path: Path) -> None:
        for names, others in ((self.names, self.disk_names), (self.disk_names, self.names)):
            for name in [name for name in names if name.parent == path]:
                if name in self.names:
                    self.disk_names[name] = self.names[name]
                elif name not in others:
                    del self.disk_names[name]

    def make_directory(self, path: Path) -> None:
        self.names.setdefault(path, None)

    def list_directory(self, path: Path) -> list[str]:
        if path not in self.names:
            raise FileNotFoundError(errno.ENOENT, "No such directory", str(path))
        return sorted(name.name for name in self.names if name.parent == path)

    def state(self, path: Path) -> os.stat_result:
        if path not in self.names:
            raise FileNotFoundError(errno.ENOENT, "No such file", str(path))
        node = self.names[path]
        mode = stat.S_IFDIR | 0o700 if node is None else stat.S_IFREG | 0o600
        return os.stat_result((mode, 0, 0, 1, 0, 0, 0 if node is None else len(node.seen), 0, 0, 0))

    def rename(self, source: Path, target: Path) -> None:
        for name in [name for name in self.names if name == source or source in name.parents]:
            self.names[target / name.relative_to(source)] = self.names.pop(name)

    def unlink(self, path: Path) -> None:
        if path not in self.names:
            raise FileNotFoundError(errno.ENOENT, "No such file", str(path))
        del self.names[path]

    def remove_directory(self, path: Path) -> None:
        del self.names[path]


class FaultyFiles(Files):
    """The real disk, where the Nth call of a method fails.

    Attributes:
        calls: how often each method was called.
        faults: by (method, call from 1): the errno to fail with, or for "write_some" the bytes to write (negative).
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.faults: dict[tuple[str, int], int] = {}

    def fail_next(self, method: str, code: int, after: int = 0) -> None:
        """The next call of `method`, or one later by `after`, fails with errno `code`."""
        self.faults[method, self.calls[method] + after + 1] = code

    def short_next(self, size: int) -> None:
        """The next write takes `size` bytes and no more."""
        self.faults["write_some", self.calls["write_some"] + 1] = -size

    def _note(self, method: str) -> int:
        self.calls[method] += 1
        code = self.faults.get((method, self.calls[method]), 0)
        if code > 0:
            raise OSError(code, os.strerror(code))
        return -code

    def write_some(self, fd: int, group: Sequence[bytes | bytearray | memoryview], position: int) -> int:
        size = self._note("write_some")
        return super().write_some(fd, [b"".join(group)[:size]] if size else group, position)

    def pread(self, fd: int, size: int, position: int) -> bytes:
        self._note("pread")
        return super().pread(fd, size, position)

    def fdatasync(self, fd: int) -> None:
        self._note("fdatasync")
        super().fdatasync(fd)

    def sync_directory(self, path: Path) -> None:
        self._note("sync_directory")
        super().sync_directory(path)

    def truncate(self, fd: int, size: int) -> None:
        self._note("truncate")
        super().truncate(fd, size)

    def create(self, path: Path) -> int:
        self._note("create")
        return super().create(path)

    def unlink(self, path: Path) -> None:
        self._note("unlink")
        super().unlink(path)

    def rename(self, source: Path, target: Path) -> None:
        self._note("rename")
        super().rename(source, target)

    def make_directory(self, path: Path) -> None:
        self._note("make_directory")
        super().make_directory(path)


class UnsyncedFiles(Files):
    """The real files without the wait for the disk, for tests of many states."""

    def fdatasync(self, fd: int) -> None:
        pass

    def sync_directory(self, path: Path) -> None:
        pass

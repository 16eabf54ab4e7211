"""A disk in memory that forgets what was not flushed, and files that fail on demand."""

from __future__ import annotations

import errno
import os
import random
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from dq.log.files import Files

SECTOR = 512


class FileNode:
    """A file: what programs see of it, what the disk has of it, and which sectors still have to go there."""

    def __init__(self, content: bytes = b"") -> None:
        self.seen, self.disk = bytearray(content), bytes(content)
        self.dirty: set[int] = set()

    def write(self, position: int, content: bytes) -> None:
        first = min(position, len(self.seen))
        if content:
            self.seen.extend(bytes(max(0, position - len(self.seen))))
            self.dirty.update(range(first // SECTOR, (position + len(content) - 1) // SECTOR + 1))
        self.seen[position : position + len(content)] = content

    def truncate(self, size: int) -> None:
        if size < len(self.seen):
            del self.seen[size:]
            self.dirty.add(size // SECTOR)

    def flush(self) -> None:
        self.disk = self._disk_with(self.dirty, len(self.seen))
        self.dirty.clear()

    def flush_fails(self, chance: random.Random) -> None:
        """As the kernel has it: some of it went to the disk, by whole sectors, and none of it will be tried again."""
        self.disk = self._disk_with({sector for sector in sorted(self.dirty) if chance.random() < 0.5}, len(self.seen))
        self.dirty.clear()

    def forget_clean(self) -> None:
        """What programs see is what the disk has, but for what still has to go there."""
        kept = bytearray(self.disk[: len(self.seen)].ljust(len(self.seen), b"\0"))
        for sector in self.dirty:
            _copy_sector(self.seen, kept, sector)
        self.seen = kept

    def after_power_cut(self, chance: random.Random) -> bytes:
        """Each sector as it was flushed or as it was written since; a length in between; NUL where nothing was written."""
        if not self.dirty and len(self.seen) == len(self.disk):
            return self.disk
        low, high = sorted((len(self.disk), len(self.seen)))
        size = chance.choice((low, high, chance.randint(low, high)))
        return self._disk_with({sector for sector in sorted(self.dirty) if chance.random() < 0.5}, size)

    def _disk_with(self, sectors: set[int], size: int) -> bytes:
        kept = bytearray(self.disk[:size].ljust(size, b"\0"))
        for sector in sectors:
            _copy_sector(self.seen, kept, sector)
        return bytes(kept)


def _copy_sector(source: bytearray, target: bytearray, sector: int) -> None:
    begin, end = sector * SECTOR, min((sector + 1) * SECTOR, len(target))
    target[begin:end] = source[begin:end].ljust(max(end - begin, 0), b"\0")


class DirectoryNode:
    """A directory: the names programs see, those the disk has, and what a name meant since the last flush."""

    def __init__(self) -> None:
        self.seen: dict[str, Node] = {}
        self.disk: dict[str, Node] = {}
        self.since: dict[str, list[Node | None]] = {}

    def set(self, name: str, node: Node | None) -> None:
        self.since.setdefault(name, []).append(self.seen.get(name))
        _put(self.seen, name, node)

    def flush(self) -> None:
        for name in self.since:
            _put(self.disk, name, self.seen.get(name))
        self.since.clear()

    def flush_fails(self, chance: random.Random) -> None:
        """Some of it went to the disk. What did not is tried again: a file system that cannot stops altogether."""
        self.disk = self.after_power_cut(chance)

    def after_power_cut(self, chance: random.Random) -> dict[str, Node]:
        """Each name as it was flushed, as it is now, or as it was at any time between: the system may write when it likes."""
        kept = dict(self.disk)
        for name, meanings in self.since.items():
            _put(kept, name, chance.choice((self.disk.get(name), self.seen.get(name), *meanings)))
        for name, node in list(kept.items()) if self.since else ():
            if isinstance(node, DirectoryNode) and list(kept.values()).count(node) > 1:
                del kept[name]  # a directory that was renamed has one name: no system gives it two
        return kept


Node = FileNode | DirectoryNode


def _put(names: dict[str, Node], name: str, node: Node | None) -> None:
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node


class MemoryFiles(Files):
    """Files and directories in memory. `power_cut` gives what a disk may have after one."""

    def __init__(self, root: DirectoryNode | None = None) -> None:
        super().__init__()
        self._root = root or DirectoryNode()
        self._fds: dict[int, FileNode] = {}
        self._next_fd = 1000

    def add(self, path: Path, content: bytes | None) -> None:
        """Puts a file, or with None a directory, on the disk, and the directories above it."""
        place = self._root
        for name in path.parts[1:-1] if content is not None else path.parts[1:]:
            node = place.seen.get(name)
            if not isinstance(node, DirectoryNode):
                node = place.seen[name] = place.disk[name] = DirectoryNode()
            place = node
        if content is not None:
            place.seen[path.name] = place.disk[path.name] = FileNode(content)

    def content(self, path: Path) -> bytes:
        node = self._find(path)
        assert isinstance(node, FileNode)
        return bytes(node.seen)

    def walk(self) -> list[Path]:
        """Every file there is."""
        found = []
        places: list[tuple[Path, DirectoryNode]] = [(Path("/"), self._root)]
        for path, place in places:
            for name, node in place.seen.items():
                if isinstance(node, DirectoryNode):
                    places.append((path / name, node))
                found.append(path / name)
        return found

    @property
    def open_count(self) -> int:
        """How many file descriptors are open."""
        return len(self._fds)

    def power_cut(self, chance: random.Random) -> MemoryFiles:
        """A new disk with all that was flushed and, by chance, some of what was not."""
        known: dict[Node, Node] = {}

        def after(node: Node) -> Node:
            if node not in known:
                if isinstance(node, FileNode):
                    known[node] = FileNode(node.after_power_cut(chance))
                else:
                    known[node] = place = DirectoryNode()
                    place.disk = {name: after(child) for name, child in node.after_power_cut(chance).items()}
                    place.seen = dict(place.disk)
            return known[node]

        root = after(self._root)
        assert isinstance(root, DirectoryNode)
        return MemoryFiles(root)

    def killed(self) -> MemoryFiles:
        """What a process finds that is started after this one was killed: all that was written, flushed or not."""
        known: dict[Node, Node] = {}

        def copied(node: Node) -> Node:
            if node not in known:
                if isinstance(node, FileNode):
                    known[node] = twin = FileNode()
                    twin.seen, twin.disk, twin.dirty = node.seen[:], node.disk, set(node.dirty)
                else:
                    known[node] = place = DirectoryNode()
                    place.seen = {name: copied(child) for name, child in node.seen.items()}
                    place.disk = {name: copied(child) for name, child in node.disk.items()}
                    place.since = {name: [old and copied(old) for old in meanings] for name, meanings in node.since.items()}
            return known[node]

        root = copied(self._root)
        assert isinstance(root, DirectoryNode)
        return MemoryFiles(root)

    # --- what Files does -----------------------------------------------------------------------------------------
    def _find(self, path: Path) -> Node:
        node: Node = self._root
        for name in path.parts[1:]:
            found = node.seen.get(name) if isinstance(node, DirectoryNode) else None
            if found is None:
                raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
            node = found
        return node

    def _directory(self, path: Path) -> DirectoryNode:
        node = self._find(path)
        if not isinstance(node, DirectoryNode):
            raise NotADirectoryError(errno.ENOTDIR, "Not a directory", str(path))
        return node

    def _fd(self, node: FileNode) -> int:
        self._next_fd += 1
        self._fds[self._next_fd] = node
        return self._next_fd

    def create(self, path: Path) -> int:
        place = self._directory(path.parent)
        if path.name in place.seen:
            raise FileExistsError(errno.EEXIST, "File exists", str(path))
        node = FileNode()
        place.set(path.name, node)
        return self._fd(node)

    def _open(self, path: Path, flags: int) -> int:
        node = self._find(path)
        if not isinstance(node, FileNode):
            raise IsADirectoryError(errno.EISDIR, "Is a directory", str(path))
        return self._fd(node)

    def close(self, fd: int) -> None:
        del self._fds[fd]

    def pread(self, fd: int, size: int, position: int) -> bytes:
        return bytes(self._fds[fd].seen[position : position + size])

    def write_some(self, fd: int, group: Sequence[bytes | bytearray | memoryview], position: int) -> int:
        content = b"".join(group)
        self._fds[fd].write(position, content)
        return len(content)

    def truncate(self, fd: int, size: int) -> None:
        self._fds[fd].truncate(size)

    def size(self, fd: int) -> int:
        return len(self._fds[fd].seen)

    def allocate(self, fd: int, size: int) -> None:
        self._fds[fd].write(0, bytes(size))

    def fdatasync(self, fd: int) -> None:
        self._fds[fd].flush()

    def drop_cache(self, fd: int) -> None:
        self._fds[fd].forget_clean()

    def sync_directory(self, path: Path) -> None:
        self._directory(path).flush()

    def make_directory(self, path: Path) -> None:
        place = self._directory(path.parent)
        node = place.seen.get(path.name)
        if node is None:
            place.set(path.name, DirectoryNode())
        elif not isinstance(node, DirectoryNode):
            raise FileExistsError(errno.EEXIST, "File exists", str(path))

    def list_directory(self, path: Path) -> list[str]:
        return sorted(self._directory(path).seen)

    def state(self, path: Path) -> os.stat_result:
        node = self._find(path)
        if isinstance(node, DirectoryNode):
            return os.stat_result((stat.S_IFDIR | 0o700, 0, 0, 1, os.geteuid(), 0, 0, 0, 0, 0))
        return os.stat_result((stat.S_IFREG | 0o600, 0, 0, 1, os.geteuid(), 0, len(node.seen), 0, 0, 0))

    def rename(self, source: Path, target: Path) -> None:
        node = self._find(source)
        self._directory(target.parent).set(target.name, node)
        self._directory(source.parent).set(source.name, None)

    def unlink(self, path: Path) -> None:
        if isinstance(self._find(path), DirectoryNode):
            raise IsADirectoryError(errno.EISDIR, "Is a directory", str(path))
        self._directory(path.parent).set(path.name, None)

    def remove_directory(self, path: Path) -> None:
        if self._directory(path).seen:
            raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))
        self._directory(path.parent).set(path.name, None)


class FaultyFiles(Files):
    """The real disk, where the Nth call of a method fails.

    Attributes:
        calls: how often each method was called.
        faults: by (method, call from 1): the errno to fail with, or for "write_some" the bytes to write (negative).
        lasting: by method: from which call on it fails with which errno, until this is cleared.
        on_call: called with the method's name before each call.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.faults: dict[tuple[str, int], int] = {}
        self.lasting: dict[str, tuple[int, int]] = {}
        self.on_call: Callable[[str], None] = lambda _: None

    def fail_next(self, method: str, code: int, after: int = 0) -> None:
        """The next call of `method`, or one later by `after`, fails with errno `code`."""
        self.faults[method, self.calls[method] + after + 1] = code

    def short_next(self, size: int) -> None:
        """The next write takes `size` bytes and no more."""
        self.faults["write_some", self.calls["write_some"] + 1] = -size

    def heal(self) -> None:
        """Nothing fails any more."""
        self.faults.clear()
        self.lasting.clear()

    def _note(self, method: str) -> int:
        self.calls[method] += 1
        self.on_call(method)
        first, code = self.lasting.get(method, (0, 0))
        if not code or self.calls[method] < first:
            code = self.faults.get((method, self.calls[method]), 0)
        if code > 0:
            raise OSError(code, os.strerror(code))
        return -code

    def write_some(self, fd: int, group: Sequence[bytes | bytearray | memoryview], position: int) -> int:
        size = self._note("write_some")
        return super().write_some(fd, [b"".join(group)[:size]] if size else group, position)

    def _open(self, path: Path, flags: int) -> int:
        self._note("open")
        return super()._open(path, flags)

    def list_directory(self, path: Path) -> list[str]:
        self._note("list_directory")
        return super().list_directory(path)

    def state(self, path: Path) -> os.stat_result:
        self._note("state")
        return super().state(path)

    def size(self, fd: int) -> int:
        self._note("size")
        return super().size(fd)

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

    def allocate(self, fd: int, size: int) -> None:
        self._note("allocate")
        super().allocate(fd, size)

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

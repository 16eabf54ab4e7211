"""A broker process that is none: the real service, over a life whose disk, pipes, queues, locks and threads are played."""

from __future__ import annotations

import errno
import os
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from faulty_memory import FaultyMemory
from sim_files import DirectoryNode, FileNode
from sim_wires import SimPoller

from dq.broker.life import ExitCode, exit_code_of
from dq.broker.watchers import Watchers
from dq.clock import FakeClock
from dq.config import LIMITS
from dq.log.layout import Layout
from dq.model.event import Event

ROOT = Path("/q")
LAYOUT = Layout(ROOT)
SMALL = replace(
    LIMITS, sink_segment_bytes=6_000, reserve_bytes=16_384, trim_seconds=1.0, commit_bytes_max=6_000, task_bytes=4_000,
    reconnect_seconds=2.0,
)  # fmt: skip


class ProcessKilled(BaseException):
    """This process was killed in the middle of something."""


class Watcher(Protocol):
    """Who is told what goes to the disk."""

    def wrote(self, path: Path, content: bytes) -> None: ...

    def flushed(self, path: Path) -> None: ...

    def written_at(self, path: Path) -> float: ...

    def flush_failed(self, path: Path) -> None: ...


class Room:
    """What is free on the disk; None where there is enough."""

    def __init__(self) -> None:
        self.free: int | None = None

    def take(self, size: int) -> None:
        if self.free is not None:
            self.free -= size


class SimDisk(FaultyMemory):
    """The disk as one process sees it: of its own are the open files, the faults, and the death.

    Args:
        root: what all processes share.
        watcher: is told of what is written.
    """

    def __init__(self, root: DirectoryNode, chance: random.Random, watcher: Watcher, room: Room) -> None:
        super().__init__(chance)
        self._root, self._watcher, self._room = root, watcher, room
        self._paths: dict[int, Path] = {}
        self._begun: dict[int, bytes] = {}
        self.dead = False
        self.calls_left: int | None = None

    def _note(self, method: str) -> int:
        if self.calls_left is not None:
            self.calls_left -= 1
            self.dead = self.dead or self.calls_left < 0
        if self.dead:
            raise ProcessKilled
        return super()._note(method)

    def _no_room(self) -> OSError:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def create(self, path: Path) -> int:
        if self._room.free == 0 and not self.dead:
            raise self._no_room()
        fd = super().create(path)
        self._paths[fd] = path
        return fd

    def _open(self, path: Path, flags: int) -> int:
        fd = super()._open(path, flags)
        self._paths[fd] = path
        return fd

    def _growth(self, fd: int, position: int, size: int) -> int:
        return max(position + size - len(self._fds[fd].seen), 0)

    def write_some(self, fd: int, group: Sequence[bytes | bytearray | memoryview], position: int) -> int:
        content = b"".join(group)
        growth, free = self._growth(fd, position, len(content)), self._room.free
        short = free is not None and growth > free and not self.dead
        if short:
            content = content[: len(content) - growth + free]
            growth = free
            if not content:
                raise self._no_room()
        count = super().write_some(fd, [content], position)
        self._room.take(growth)
        written = self._begun.pop(fd, b"") + content
        if short:
            self._begun[fd] = written  # whole lines of it too: it is cut off again, if the rest finds no room either
        else:
            self._watcher.wrote(self._paths[fd], written)
        return count

    def state(self, path: Path) -> os.stat_result:
        found = list(super().state(path))
        found[8] = int(self._watcher.written_at(path))
        return os.stat_result(found)

    def allocate(self, fd: int, size: int) -> None:
        if self._room.free is not None and size > self._room.free and not self.dead:
            raise self._no_room()
        super().allocate(fd, size)
        self._room.take(size)

    def truncate(self, fd: int, size: int) -> None:
        self._begun.pop(fd, None)
        before = len(self._fds[fd].seen)
        super().truncate(fd, size)
        self._room.take(min(size - before, 0))

    def unlink(self, path: Path) -> None:
        node = self._find(path)
        super().unlink(path)
        if isinstance(node, FileNode):
            self._room.take(-len(node.seen))

    def fdatasync(self, fd: int) -> None:
        try:
            super().fdatasync(fd)
        except OSError:
            self._watcher.flush_failed(self._paths[fd])
            raise
        self._watcher.flushed(self._paths[fd])


class SimLock:
    """A lock file that is held."""

    def __init__(self, held: set[Path], path: Path) -> None:
        assert path not in held, f"{path} is held by another process"
        held.add(path)
        self._held, self._path = held, path

    def release(self) -> None:
        self._held.discard(self._path)


class SimThreads(Executor):
    """Threads whose work is done when the world has them do it: between two turns, however long after it was handed in."""

    def __init__(self) -> None:
        self._work: deque[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]]] = deque()

    def submit(self, act: Callable[..., Any], /, *args: Any, **_: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.run_one = self.run_one  # type: ignore[attr-defined]
        self._work.append((future, act, args))
        return future

    def map(self, act: Callable[..., Any], *parts: Iterable[Any], **_: Any) -> Iterator[Any]:
        return iter([act(*each) for each in zip(*parts, strict=True)])

    def run_one(self) -> None:
        if self._work:
            future, act, args = self._work.popleft()
            try:
                result = act(*args)
            except AssertionError:
                raise
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(result)

    @staticmethod
    def wait(futures: Iterable[Future[Any]]) -> None:
        """As `concurrent.futures.wait`."""
        for future in futures:
            while not future.done():
                future.run_one()  # type: ignore[attr-defined]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        while self._work:
            self.run_one()


class SimLife:
    """The face of `broker.life.Life`."""

    def __init__(self, files: SimDisk, clock: FakeClock, chance: random.Random, held: set[Path], *, fresh: bool) -> None:
        self.root, self.limits, self.fresh = ROOT, SMALL, fresh
        self.stream_defaults: dict[str, object] = {}
        self.sink_defaults: dict[str, object] = {}
        self.files, self.clock, self.poller = files, clock, SimPoller(chance)
        self.watchers = Watchers(self.poller)
        self.exit_code = ExitCode.DONE
        self.asked = False
        self.error: BaseException | None = None
        self.said: deque[bytes] = deque()
        self.workers: list[SimThreads] = []
        self._held = held

    def lock(self, path: Path, what: str) -> SimLock:
        return SimLock(self._held, path)

    def threads(self, count: int) -> SimThreads:
        self.workers.append(SimThreads())
        return self.workers[-1]

    def tell(self, event: Event) -> None:
        self.said.append(event.encode())

    def fail(self, error: BaseException) -> None:
        self.exit_code, self.error = exit_code_of(error), error
        self.ask_to_stop()

    def ask_to_stop(self) -> None:
        self.asked = True

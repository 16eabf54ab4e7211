"""Lock files: one holder each, known by its pid, gone with its process however that ends.

The kernel drops a `flock` with the process. A lock file is never deleted: whoever still has the old file open would
hold a lock beside the next one's. The pid stands in a file of its own, `<lock>.pid`: some versions of filelock empty
theirs.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from dq.errors import BrokerError, InUse, LogError
from dq.log import system
from dq.log.files import mapped

_ADVICE = "attach to what runs there (dq.connect), or stop it first"
_POLL_SECONDS = 0.01
_NAMED_SECONDS = 0.5


class HeldLock:
    """A lock that is held until `release()` or the end of the process."""

    def __init__(self, path: Path, lock: FileLock, state: os.stat_result) -> None:
        self.path, self._lock, self._state = path, lock, state

    @property
    def in_place(self) -> bool:
        """Whether the file that is locked still is the one at `path`, so that nobody else can hold another."""
        with contextlib.suppress(OSError):
            return os.path.samestat(os.stat(self.path), self._state)
        return False

    def release(self) -> None:
        """Lets the next one in; safe twice."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


def hold(path: Path, wait_seconds: float, what: str, error: type[BrokerError] = InUse, advice: str = _ADVICE) -> HeldLock:
    """Takes the lock at `path`, waiting for a dying holder.

    Args:
        path: the lock file, in a directory that exists.
        wait_seconds: how long to wait for it; 0 tries once.
        what: what is locked, for the message.
        error: the class to raise, `InUse` or `BrokerRunning`.
        advice: what to do about it, for the message.

    Raises:
        InUse: another process held it all the time; the message has its pid.
        LogError: the file cannot be opened.
    """
    deadline = time.monotonic() + wait_seconds
    while True:
        with mapped(path, "lock"):
            witness = os.open(path, system.LOCK_FLAGS, 0o600)
        lock = FileLock(path, mode=0o600, thread_local=False)
        try:
            lock.acquire(timeout=max(0.0, deadline - time.monotonic()), poll_interval=_POLL_SECONDS)
            if _is_at(witness, path):
                _write_pid(path)
                return HeldLock(path, lock, os.fstat(witness))
            # The file was deleted or replaced meanwhile, so that another process can lock its successor: begin again.
            lock.release()
        except Timeout:
            pid = _living_holder(path)
            raise error(f"{what} is in use already, by pid {pid}, which holds {path.name}: {advice}") from None
        except OSError as failure:
            raise LogError(f"cannot lock {path}: {failure.strerror or failure}") from failure
        finally:
            os.close(witness)


def is_held(path: Path) -> bool:
    """Whether somebody holds the lock now; changes nothing."""
    try:
        held = system.is_locked(path)
    except FileNotFoundError:
        return False
    if held is None and path.exists():  # it cannot be looked at there: taken for a moment
        try:
            with FileLock(path, timeout=0, thread_local=False):
                return False
        except Timeout:
            return True
    return bool(held)


def holder(path: Path) -> str:
    """The pid that last took the lock, "?" where it is not known. For messages: it may have let go since."""
    try:
        return _pid_path(path).read_text("ascii").strip() or "?"
    except (OSError, UnicodeDecodeError):
        return "?"


def _living_holder(path: Path) -> str:
    """As `holder`. Who has taken the lock a moment ago has not said so yet, and then a dead one's pid stands there, or none."""
    deadline = time.monotonic() + _NAMED_SECONDS
    while not _lives(pid := holder(path)) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return pid


def _lives(pid: str) -> bool:
    try:
        return system.lives(int(pid)) is not False
    except ValueError:
        return False


def _is_at(fd: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(fd), os.stat(path))
    return False


def _pid_path(path: Path) -> Path:
    return path.with_name(path.name + ".pid")


def _write_pid(path: Path) -> None:
    # A full disk must not keep a broker from starting: the pid is for messages alone.
    with contextlib.suppress(OSError):
        fd = os.open(_pid_path(path), system.LOCK_FLAGS, 0o600)
        try:
            system.pwritev(fd, [b"%-20d\n" % os.getpid()], 0)  # of one length, so that nobody reads half of it, or of two
        finally:
            os.close(fd)

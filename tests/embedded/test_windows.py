"""The same queues where the calls of POSIX are missing: an interpreter that is told that it runs on Windows."""

from __future__ import annotations

from pathlib import Path

from stage import Child

# What Python has not there; the modules that dq needs are imported before, since they look at sys.platform too.
PRETENCE = """
import os, sys, stat, time, threading, pathlib, tempfile, contextlib, subprocess, logging, filelock, orjson, uuid, queue
import concurrent.futures, weakref, enum, datetime, dataclasses, random, zlib, binascii, types
theirs = types.ModuleType("os")  # filelock has another lock there, which this system has not
theirs.__dict__.update(os.__dict__)
for name, module in list(sys.modules.items()):
    if name.startswith("filelock") and hasattr(module, "os"):
        module.os = theirs
missing = [
    "pread", "pwrite", "preadv", "pwritev", "fdatasync", "posix_fadvise", "posix_fallocate", "geteuid", "getuid", "fork",
    "register_at_fork", "O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "O_DIRECTORY", "sched_getaffinity", "getppid",
]
real_open, real_unlink, real_close = os.open, os.unlink, os.close
opened = {}
for name in missing:
    if hasattr(os, name):
        delattr(os, name)
os.O_BINARY, os.O_NOINHERIT = 0, 0
for module in ("fcntl", "resource", "pwd", "grp"):
    sys.modules[module] = None
sys.platform = "win32"


def opening(path, flags, mode=0o777, **more):
    if os.path.isdir(path):
        raise PermissionError(13, "a directory cannot be opened there", str(path))
    fd = real_open(path, flags, mode, **more)
    opened[fd] = os.path.realpath(path)
    return fd


def closing(fd):
    opened.pop(fd, None)
    real_close(fd)


def unlinking(path, **more):
    if os.path.realpath(path) in opened.values():
        raise PermissionError(13, "an open file cannot be deleted there", str(path))
    real_unlink(path, **more)


def killing(pid, signal):
    raise AssertionError("os.kill ends a process there")


os.open, os.close, os.unlink, os.kill = opening, closing, unlinking, killing
"""

SCENARIO = (
    PRETENCE
    + """
from dq.embedded import *
from dq.embedded import store
import dq
store.SEGMENT_BYTES = store.FRESH_BYTES = 50_000
store.CURSOR_SEGMENT_BYTES = 3_000
root = pathlib.Path(sys.argv[1])
kinds = [b"text", b"\\xff\\xfe", b"\\xff" * 5000]
with PersistentQueue(root / "p") as queue:
    for n in range(200):
        queue.push([b"%d" % n + kind for kind in kinds])
    assert queue.pop(400)[-1] == b"133text"
    with queue.take(2) as items:
        assert items[0] == b"133\\xff\\xfe"
    try:
        PersistentQueue(root / "p")
    except dq.InUse as error:
        assert f"pid {os.getpid()}" in str(error)
    else:
        raise AssertionError("two owners")
    assert dq.verify(root / "p").running
assert dq.verify(root / "p").faults == []
with PersistentQueue(root / "p", durability="sync") as queue:
    assert len(queue) == 198
    for _ in range(198):
        queue.pop()
    assert queue.disk_size < 1 << 20
now = [1e9]
with MpmcQueue(root / "m", 10, wall=lambda: now[0]) as queue:
    for n in range(100):
        queue.add([b"%d" % n + kind for kind in kinds])
        assert len(queue.next("one", StartPosition.OLDEST, 2)[0]) == 2
        now[0] += 0.5
    assert queue.len == 57
    now[0] += 100
    assert queue.next("one") == ([], True)
with Queue(root / "q", redeliver=True) as queue:
    queue.put({"n": 1})
    assert queue.get() == {"n": 1}
with NonBlockingPersistentQueue(root / "n") as queue:
    queue.push([b"a"])
    assert queue.pop().get() == [b"a"]
for name in "pqn":
    remove_queue(root / name)
remove_mpmc_queue(root / "m")
say(sorted(os.listdir(root)))
"""
)


def test_everything_runs_without_the_calls_of_posix(tmp_path: Path) -> None:
    """R better: runs on Windows too. Here: no pread, pwritev, fdatasync, fcntl, fork, uid; no open of a directory, no deletion
    of an open file, and os.kill must not be called."""
    with Child(SCENARIO, tmp_path) as child:
        assert child.hear(60) == []
        assert child.wait() == 0

"""Locks: one holder, known by its pid, and free as soon as its process is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dq.errors import BrokerRunning, InUse, LogError
from dq.log.locks import hold, holder

HOLD = """
import sys
from pathlib import Path
from dq.log.locks import hold
lock = hold(Path(sys.argv[1]), 0, "it")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "writer.lock"


def other_holder(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_second_holder_is_refused_with_the_pid_of_the_first(path: Path) -> None:
    with (
        hold(path, 0, "the log"),
        pytest.raises(InUse, match=rf"the log is in use already, by pid {os.getpid()}.*writer\.lock"),
    ):
        hold(path, 0.05, "the log")
    with hold(path, 0, "the log"):
        assert holder(path) == str(os.getpid())


def test_the_error_can_be_chosen(path: Path) -> None:
    with hold(path, 0, "a"), pytest.raises(BrokerRunning):
        hold(path, 0, "the directory", error=BrokerRunning)


def test_a_lock_is_free_when_its_holder_is_killed(path: Path) -> None:
    process = other_holder(path)
    with pytest.raises(InUse, match=f"pid {process.pid}"):
        hold(path, 0, "the log")
    end(process)
    hold(path, 0, "the log").release()


def test_it_waits_for_a_dying_holder(path: Path) -> None:
    process = other_holder(path)
    timer = threading.Timer(0.1, process.kill)
    timer.start()
    began = time.monotonic()
    hold(path, 20, "the log").release()
    assert 0.05 < time.monotonic() - began < 15, "it waited, and not to the end"
    timer.join()
    end(process)


def test_the_file_stays_when_the_lock_is_released(path: Path) -> None:
    lock = hold(path, 0, "the log")
    inode = path.stat().st_ino
    lock.release()
    lock.release()
    assert path.stat().st_ino == inode
    assert path.stat().st_mode & 0o777 == 0o600
    assert (path.parent / "writer.lock.pid").stat().st_mode & 0o777 == 0o600


def test_a_lock_on_a_file_that_was_replaced_meanwhile_does_not_count(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dq.log.locks as locks

    attempts = []

    class Replaced(locks.FileLock):
        def acquire(self, *args: object, **kwargs: object) -> object:
            proxy = super().acquire(*args, **kwargs)  # type: ignore[arg-type]
            attempts.append(path.stat().st_ino)
            if len(attempts) == 1:
                path.rename(path.with_suffix(".old"))
                path.touch()
            return proxy

    monkeypatch.setattr(locks, "FileLock", Replaced)
    with hold(path, 1, "the log"):
        assert len(attempts) == 2
        assert path.stat().st_ino == attempts[1]


def test_a_link_in_place_of_the_lock_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LogError):
        hold(path, 0, "the log")
    assert not (tmp_path / "elsewhere").exists()


def test_a_missing_directory_is_a_log_error(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="cannot lock"):
        hold(tmp_path / "nothing" / "x.lock", 0, "the log")


def test_an_unknown_pid_is_a_question_mark(path: Path) -> None:
    assert holder(path) == "?"


def test_who_is_refused_learns_the_pid_of_a_holder_that_has_just_come(path: Path) -> None:
    with hold(path, 0, "the log"):
        pid_file = path.with_name("writer.lock.pid")
        said = pid_file.read_bytes()
        for before in (b"", b"%-20d\n" % 2**30):  # nothing yet, or the pid of one that is dead
            pid_file.write_bytes(before)
            timer = threading.Timer(0.1, pid_file.write_bytes, [said])
            timer.start()
            with pytest.raises(InUse, match=rf"by pid {os.getpid()},"):
                hold(path, 0, "the log")
            timer.join()

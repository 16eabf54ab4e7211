"""`dq work MODULE:APP`: what it says, how it ends, and what survives when its processes are killed."""

from __future__ import annotations

import contextlib
import os
import pty
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dq
from dq import BrokerManager
from dq.cli.work_crew import Crew
from stage import Threaded, announce, kill, marked, pids, until

HERE = Path(__file__).parent
ATTEMPTS = 2


class Terminal:
    """`dq work …` with its output in a pseudo-terminal."""

    def __init__(self, *arguments: object, root: Path, streams: str = "") -> None:
        self._ours, theirs = pty.openpty()
        self.marker = f"DQ_TEST_WORK={os.getpid()}-{time.monotonic_ns()}"
        name, _, value = self.marker.partition("=")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "dq.main", "work", *map(str, arguments)],
            stdin=theirs, stdout=theirs, stderr=theirs, cwd=HERE, start_new_session=True,
            env={
                **os.environ, "DQ_DIR": str(root), "PYTHONPATH": "", "DQ_TEST_STREAMS": streams,
                "DQ_TEST_ATTEMPTS": str(ATTEMPTS), name: value,
            },
        )  # fmt: skip
        os.close(theirs)
        self._said = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: the last one at the other end has closed
            while piece := os.read(self._ours, 65536):
                self._said += piece

    @property
    def said(self) -> str:
        return self._said.decode()

    def wait(self, seconds: float = 15) -> int:
        code = self.process.wait(seconds)
        self._reader.join(0.3)  # a broker that it has started keeps the terminal open
        return code

    def close(self) -> None:
        kill(self.process.pid)
        self.process.wait()
        for pid in marked(self.marker):
            kill(pid)
        self._reader.join(0.3)
        os.close(self._ours)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[BrokerManager]:
    """A broker of this test's own."""
    with BrokerManager(tmp_path / "queue_data") as broker:
        yield broker


def notes(file: Path) -> list[dict[str, Any]]:
    found = []
    for line in file.read_text().splitlines() if file.exists() else []:
        word, how, number, attempt, pid = line.split()
        found.append({"word": word, "how": how, "n": int(number), "attempt": int(attempt), "pid": int(pid)})
    return found


def backlog(broker: BrokerManager, *handlers: str) -> int:
    left = 0
    for handler in handlers:
        stats = dq.Sink(broker, f"workers.{handler}").stats()
        left += stats.waiting + stats.in_hand + stats.delayed
    return left


def letters(broker: BrokerManager, stream: str) -> list[dq.Record]:
    if f"{stream}-dlq" not in broker.streams():
        return []
    with broker.reader(f"{stream}-dlq", start="oldest", follow=False) as reader:
        return list(reader)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("no_such:app", "there is no module 'no_such' in "),
        ("work_jobs:appp", "did you mean 'app'"),
        ("work_jobs:not_an_app", "work_jobs:not_an_app is no App, but int"),
        ("work_jobs:nothing_in_it", "has no handlers"),
        ("work_jobs", "names no app: it is MODULE:APP"),
        ("broken:app", "the module broken cannot be imported: ZeroDivisionError: division by zero"),
    ],
)
def test_what_cannot_be_worked_on_is_said_in_a_line(
    target: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "work_jobs.py").write_text((HERE / "work_jobs.py").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("work_jobs", None)
    from dq.cli.commands import run

    code = run(["work", target], "dq")
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert code == (1 if target == "broken:app" else 2)


def test_without_a_broker_it_starts_none_unless_told(tmp_path: Path) -> None:
    with Terminal("work_jobs:app", "--processes", 2, root=tmp_path / "data") as work:
        assert work.wait() == 69
        assert work.said.count("\n") == 1
        assert "or say --start" in work.said
    with Terminal("work_jobs:app", "--create", "--burst", root=tmp_path / "data") as work:
        assert work.wait() == 0, work.said
        # Then the broker stays a while, for others
        with dq.connect(tmp_path / "data") as broker:
            assert "threads" in broker.streams()


def test_it_waits_for_what_is_in_flight_and_says_so(broker: BrokerManager, name: str, tmp_path: Path) -> None:
    """H9: Ctrl-C at a terminal."""
    file = tmp_path / "seen"
    with Terminal("work_jobs:app", "--sink", "other", root=broker.root, streams=name) as work:
        broker.publish(f"{name}threads", {"how": "sleep", "seconds": 0.9, "n": 1, "file": str(file)})
        until(lambda: notes(file))
        work.process.send_signal(signal.SIGINT)
        assert work.wait() == 0
        assert [each["word"] for each in notes(file)] == ["begun", "done"]
        assert re.search(r"stopping: waiting up to [45] s more for 1 task\(s\): in_threads with \w+threads/0/0", work.said)
        assert "Traceback" not in work.said
    assert dq.Sink(broker, "other.in_threads").stats().settled == 1


def test_several_are_stopped_at_once_by_a_second_signal(broker: BrokerManager, name: str, tmp_path: Path) -> None:
    """H9."""
    file = tmp_path / "seen"
    with Terminal("work_jobs:app", "--processes", 2, "--sink", name, root=broker.root, streams=name) as work:
        broker.publish(f"{name}threads", {"how": "sleep", "seconds": 60, "n": 1, "file": str(file)})
        until(lambda: notes(file))
        work.process.send_signal(signal.SIGTERM)
        until(lambda: "a second signal ends it at once" in work.said)
        work.process.send_signal(signal.SIGTERM)
        assert work.wait() == 130
        until(lambda: not marked(work.marker))
        assert "Traceback" not in work.said


def test_processes_end_with_their_supervisor(broker: BrokerManager, name: str) -> None:
    with Terminal("work_jobs:app", "--processes", 1, "--sink", name, root=broker.root, streams=name) as work:
        until(lambda: "1 processes work" in work.said)
        kill(work.process.pid)
        until(lambda: not marked(work.marker))


def test_processes_that_keep_ending_are_reported(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dq.cli.work_crew.backoff", lambda attempts, jitter: 0.001 * attempts)
    # Given a process that says that it is ready, and ends
    crew = Crew("work_jobs:app", 1, [])
    for member in crew._members:
        member._command = ["sh", "-c", 'printf r > "/dev/fd/$2"; exit 1', "member"]
    wanted = "process 1 of 1 ended with exit code 1, 5 times in a row soon after its start"

    def stop_when_said() -> None:
        until(lambda: wanted in caplog.text)
        os.kill(os.getpid(), signal.SIGTERM)

    stopping = Threaded(stop_when_said)
    assert crew.run() == 0
    stopping.result()
    assert [record.levelname for record in caplog.records if "process 1 of 1" in record.message] == ["WARNING"] * 4 + ["ERROR"]


def test_a_poison_record_burns_no_attempt_of_500_good_ones(broker: BrokerManager, name: str, tmp_path: Path) -> None:
    """H3, H7: in threads, where it takes the whole process with it."""
    file = tmp_path / "seen"
    jobs = [{"how": "good", "n": number, "file": str(file)} for number in range(500)]
    jobs.insert(250, {"how": "exit", "n": 1000, "file": str(file)})
    with dq.Publisher(broker, f"{name}threads") as publisher:
        publisher.publish_many(jobs)
    with Terminal("work_jobs:app", "--processes", 2, "--burst", "--sink", name, root=broker.root, streams=name) as work:
        assert work.wait(40) == 0, work.said
    seen = notes(file)
    # Every good one was done, at its first attempt
    assert {each["n"] for each in seen if each["word"] == "done"} == set(range(500))
    assert {each["attempt"] for each in seen if each["how"] == "good"} == {1}
    # The poison killed no more than it may, and is given up once
    deaths = len({each["pid"] for each in seen if each["how"] == "exit"})
    assert deaths <= ATTEMPTS + 1
    assert [letter.headers["dq-id"] for letter in letters(broker, f"{name}threads")] == [f"{name}threads/0/250"]


def test_nothing_is_lost_when_processes_are_killed_at_random(
    own: BrokerManager, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """H3, H4, H7, H12: handlers that fail, sleep, die and fill memory, while workers, members and brokers are killed."""
    cycles = max(request.config.getoption("--crash-cycles") // 12, 2)
    seed = request.config.getoption("--crash-seed") or random.randrange(1 << 32)
    chance, file = random.Random(seed), tmp_path / "seen"
    announce(capsys, f"\ndq work, {cycles} kills, seed {seed}: ")
    hows = ["good"] * 100 + ["sleep"] * 12 + ["raise"] * 2 + ["exit", "memory"]
    sent = {}
    for stream in ("threads", "workers"):
        mixed = [how for how in hows if stream == "workers" or how != "memory"]
        chance.shuffle(mixed)
        jobs = [{"how": how, "n": number, "file": f"{file}-{stream}"} for number, how in enumerate(mixed)]
        with dq.Publisher(own, stream) as publisher:
            publisher.publish_many(jobs)
        sent[stream] = jobs
    with Terminal("work_jobs:app", "--processes", 2, root=own.root) as work:
        until(lambda: "2 processes work" in work.said)
        for _ in range(cycles):
            time.sleep(chance.uniform(0.05, 0.3))
            victims = [pid for pid in marked(work.marker) if pid != work.process.pid]
            kill(chance.choice([*victims, *pids(own)]))
        until(lambda: backlog(own, "in_threads", "in_processes") == 0, 60, "all is settled")
        work.process.send_signal(signal.SIGTERM)
        assert work.wait() == 0, work.said
    for stream, jobs in sent.items():
        done = {each["n"] for each in notes(Path(f"{file}-{stream}")) if each["word"] == "done"}
        dead = Counter(letter.payload["n"] for letter in letters(own, stream))
        assert set(dead.values()) <= {1}
        assert done | set(dead) == {job["n"] for job in jobs}
        for job in jobs:
            assert (job["n"] in dead) >= (job["how"] in ("raise", "exit", "memory"))
    announce(capsys, "nothing lost\n")

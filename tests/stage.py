"""What tests with real processes share: waiting with a deadline, children that speak in lines, who is alive."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import orjson

from dq import Broker, Consumer, Task

T = TypeVar("T")
_PAUSE = threading.Event()
DEADLINE_SECONDS = 10.0
ANNOUNCED: list[str] = []
"""What the running test has announced, where another process has the terminal; see tests/conftest.py."""


def until(condition: Callable[[], T], seconds: float = DEADLINE_SECONDS, what: str = "") -> T:
    """Waits until `condition()` is true and returns its value; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what or condition}"
        _PAUSE.wait(0.005)
    return value


def announce(capsys: Any, text: str) -> None:
    """Shows a figure on the terminal, whatever pytest captures; at the end, where another process has the terminal."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        ANNOUNCED.append(text)
        return
    with capsys.disabled():
        sys.stdout.write(text)
        sys.stdout.flush()


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Sends a signal to a process, if it still is there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def marked(marker: str) -> list[int]:
    """The pids of all processes that live and have `marker` in their environment."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            with contextlib.suppress(OSError):
                if marker.encode() in Path(f"/proc/{entry}/environ").read_bytes() and alive(int(entry)):
                    found.append(int(entry))
    return found


def pids(broker: Broker) -> tuple[int, int]:
    """The pids of the publisher broker and of the consumer broker, as soon as both are ready."""

    def both() -> tuple[int, int] | None:
        stats = broker.stats()
        parts = stats["publisher_broker"], stats["consumer_broker"]
        if all(part["ready"] and part["pid"] for part in parts):
            return parts[0]["pid"], parts[1]["pid"]
        return None

    return until(both, what="both brokers are ready")


def sink_of(broker: Broker, sink: str) -> dict[str, Any]:
    """The figures of a sink; empty while there is none."""
    return broker.stats()["consumer_broker"].get("sinks", {}).get(sink, {})


def settled(broker: Broker, sink: str, count: int) -> bool:
    """Whether a sink has settled so many records."""
    return sink_of(broker, sink).get("settled", 0) == count


def all_settled(broker: Broker, sink: str) -> bool:
    """Whether a sink has settled all that its streams have, as both brokers say."""
    stats = broker.stats()
    streams = stats["publisher_broker"].get("streams", {})
    shards = stats["consumer_broker"].get("sinks", {}).get(sink, {}).get("shards", {})
    places = [(name.rpartition("/"), shard["floor"]) for name, shard in shards.items()]
    return bool(places) and all(
        stream in streams and streams[stream]["ends"][int(bucket)] == floor for (stream, _, bucket), floor in places
    )


def drain(broker: Broker, *streams: str, sink: str, **options: Any) -> list[Task]:
    """What a sink still has to give, each acked, until all is settled that its streams have: nothing more can come then.

    An `idle_timeout` has to be long for a busy machine, and is waited for at the end of each test.
    """
    with Consumer(broker, *streams, sink=sink, **options) as consumer, until_settled(broker, sink, consumer):
        return [(task, task.ack())[0] for task in consumer]


@contextlib.contextmanager
def until_settled(broker: Broker, sink: str, consumer: Consumer) -> Iterator[None]:
    """Within it, the iteration of a consumer ends when its sink has settled all that its streams have."""

    def stop_at_the_end() -> None:
        try:
            until(lambda: all_settled(broker, sink), 2 * DEADLINE_SECONDS, f"all is settled for sink {sink}")
        finally:
            consumer.stop()

    watching = Threaded(stop_at_the_end)
    yield
    watching.result()


class Child:
    """A fresh interpreter that runs `code` and speaks in lines of JSON on its standard output.

    `say(...)` is defined in it; `heard()` returns the next line of its standard input, as it is told by `tell`. The end of its
    standard input is the end of the test, so that none outlives it.
    """

    PRELUDE = (
        "import sys, json, os\n"
        "def say(*what):\n"
        "    os.write(1, (json.dumps(what if len(what) != 1 else what[0]) + '\\n').encode())\n"
        "def heard():\n"
        "    return json.loads(sys.stdin.readline() or 'null')\n"
    )

    def __init__(self, code: str, *arguments: object, env: dict[str, str] | None = None, new_session: bool = False) -> None:
        command = [sys.executable, "-c", self.PRELUDE + code, *map(str, arguments)]
        self._start(command, env, new_session)

    def _start(self, command: list[str], env: dict[str, str] | None, new_session: bool) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **(env or {})},
            start_new_session=new_session,
        )
        self._lines: queue.Queue[bytes] = queue.Queue()
        self.errors = b""
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read, self._read_errors)]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def _read(self) -> None:
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(b"")

    def _read_errors(self) -> None:
        for line in self.process.stderr:
            self.errors += line

    def hear(self, seconds: float = DEADLINE_SECONDS) -> Any:
        """The next thing it says; fails when it says nothing in time, or ends."""
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            raise AssertionError(f"the child said nothing within {seconds:g} s; {self.errors.decode()}") from None
        assert line, f"the child ended: {self.errors.decode()}"
        return orjson.loads(line)

    def hear_rest(self, seconds: float = DEADLINE_SECONDS) -> list[Any]:
        """All that it says until it ends."""
        deadline, said = time.monotonic() + seconds, []
        while line := self._lines.get(timeout=max(deadline - time.monotonic(), 0.01)):
            said.append(orjson.loads(line))
        return said

    def tell(self, what: Any) -> None:
        """Says a line to it."""
        self.process.stdin.write(orjson.dumps(what) + b"\n")
        self.process.stdin.flush()

    def wait(self, seconds: float = DEADLINE_SECONDS) -> int:
        """Its exit code; fails when it does not end in time."""
        code = self.process.wait(seconds)
        for reader in self._readers:
            reader.join(seconds)
        return code

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Ends it, however it is."""
        kill(self.pid, signal.SIGCONT)
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for reader in self._readers:
            reader.join(DEADLINE_SECONDS)
        self.process.stdout.close()
        self.process.stderr.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Threaded:
    """Runs a function in a thread and brings back its value or its exception."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._outcome: tuple[Any, BaseException | None] = (None, None)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._outcome = (self._function(), None)
        except BaseException as error:
            self._outcome = (None, error)

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def result(self, seconds: float = DEADLINE_SECONDS) -> Any:
        self._thread.join(seconds)
        assert not self.running, f"it still runs after {seconds:g} s"
        value, error = self._outcome
        if error is not None:
            raise error
        return value

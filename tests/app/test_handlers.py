"""Handlers over dq's own broker: what they get, what becomes of what they return, and what survives a kill."""

from __future__ import annotations

import asyncio
import itertools
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import dq
from dq import App, BrokerManager, Task
from dq.app import AppConfig, DeadLetter, Drop, Release, Retry
from stage import Child, Threaded, until

HERE = Path(__file__).parent


@dataclass
class Mail:
    to: str


def letters(broker: BrokerManager, stream: str) -> list[dq.Record]:
    with broker.reader(f"{stream}-dlq", start="oldest", follow=False) as reader:
        return list(reader)


def test_a_handler_gets_the_payload_as_it_is_annotated_and_the_task(broker: BrokerManager, name: str) -> None:
    """H1, H2: the streams of all handlers are found by themselves."""
    app = App(broker, sink=name)
    seen: list[tuple[Mail, str, int]] = []

    @app.handler(name, f"{name}b")
    def send(mail: Mail, task: Task) -> None:
        seen.append((mail, task.stream, task.attempt))

    # When records are published and all is handled
    app.publish(name, {"to": "ada@example.org"})
    app.publish(f"{name}b", {"to": "bob@example.org"})
    app.run(burst=True)
    # Then the function has seen each once, and its sink has settled them
    assert sorted(seen, key=str) == [(Mail("ada@example.org"), name, 1), (Mail("bob@example.org"), f"{name}b", 1)]
    assert dq.Sink(broker, f"{name}.send").stats().settled == 2


def test_each_outcome_does_what_it_says(broker: BrokerManager, name: str) -> None:
    """H2, H4: sync and async; each but Release is settled, and a dead letter is in its stream by then."""
    app = App(broker, sink=name)
    released: list[str] = []
    seen: list[tuple[str, int, str | None]] = []

    def act(how: str, task: Task) -> Any:
        seen.append((how, task.attempt, task.last_error))
        match how:
            case "drop":
                return Drop()
            case "retry" if task.attempt == 1:
                return Retry(0.001, error="not yet")
            case "dead":
                return DeadLetter("no such address")
            case "release" if len(released) < 2:
                released.append(how)
                return Release()
            case "outcome":
                return dq.Outcome.ACK
        return None

    @app.handler(name)
    async def acting(how: str, task: Task) -> Any:
        return act(how, task)

    hows = ["drop", "retry", "dead", "release", "outcome"]
    for how in hows:
        app.publish(name, how)
    app.run(burst=True)
    assert Counter(seen) == Counter(
        [("drop", 1, None), ("retry", 1, None), ("retry", 2, "not yet"), ("dead", 1, None), ("outcome", 1, None)]
        + [("release", 1, None)] * 3  # it burns no attempt
    )
    stats = dq.Sink(broker, f"{name}.acting").stats()
    assert (stats.settled, stats.waiting, stats.in_hand, stats.delayed) == (5, 0, 0, 0)
    assert [letter.headers["dq-reason"] for letter in letters(broker, name)] == ["no such address"]


def test_what_fails_is_tried_five_times_with_growing_waits(broker: BrokerManager, name: str) -> None:
    """H3: 50 ms, doubled, and then a dead letter; a good one is not held up."""
    app = App(broker, sink=name)
    tries: list[tuple[float, int, str | None]] = []
    done: list[float] = []

    @app.handler(name)
    def failing(payload: str, task: Task) -> None:
        if payload == "good":
            done.append(task.started.timestamp())
            return
        tries.append((task.started.timestamp(), task.attempt, task.last_error))
        raise LookupError("no table")

    app.publish(name, "bad")
    app.publish(name, "good")
    app.run(burst=True)
    assert [attempt for _, attempt, _ in tries] == [1, 2, 3, 4, 5]
    assert [error for _, _, error in tries] == [None, *["LookupError: no table"] * 4]
    waits = [after[0] - before[0] for before, after in itertools.pairwise(tries)]
    for wait, least in zip(waits, (0.04, 0.08, 0.16, 0.32), strict=True):
        assert wait >= least * 0.98
    assert len(done) == 1
    assert done[0] < tries[-1][0]
    [letter] = letters(broker, name)
    assert letter.headers["dq-reason"] == "max_attempts"
    assert letter.headers["dq-error"] == "LookupError: no table"
    assert letter.headers["dq-error-type"] == "LookupError"
    assert 'raise LookupError("no table")' in letter.headers["dq-traceback"]


def test_each_handler_of_a_stream_gets_every_task_and_is_retried_alone(broker: BrokerManager, name: str) -> None:
    """H8: each is a sink of its own; a handler that comes later begins at the oldest."""
    ran: list[str] = []
    app = App(broker, sink=name)

    @app.handler(name)
    def steady(payload: int) -> None:
        ran.append("steady")

    @app.handler(name)
    async def shaky(payload: int, task: Task) -> object:
        ran.append("shaky")
        return Retry(0) if task.attempt < 3 else None

    app.publish(name, 1)
    app.run(burst=True)
    assert Counter(ran) == {"steady": 1, "shaky": 3}
    # When another handler is registered, it alone runs
    ran.clear()
    app.handler(name, name="late")(lambda payload: ran.append("late"))
    app.run(burst=True)
    assert ran == ["late"]


APP = """\
import os, sys, time
from dq import App, Task
from dq.app import Retry
app = App(sys.argv[1], sink=sys.argv[2])

@app.handler(sys.argv[2])
def steady(payload):
    say("steady", 0)

@app.handler(sys.argv[2])
def shaky(payload, task: Task):
    say("shaky", task.attempt)
    if task.attempt < 3:
        return Retry(0)
    if task.attempt == 3:
        time.sleep(60)

say("runs", os.getpid())
app.run()
"""


def test_attempts_survive_a_kill_and_only_the_handler_that_had_not_done_it_does_it_again(
    broker: BrokerManager, name: str
) -> None:
    """H7, H8, H12: what a killed process had in hand comes at once, as the next attempt; what it had settled does not."""
    broker.publish(name, 1)
    with Child(APP, broker.root, name) as child:
        said = [tuple(child.hear()) for _ in range(5)]
        assert Counter(said)[("steady", 0)] == 1
        assert [attempt for who, attempt in said if who == "shaky"] == [1, 2, 3]
        until(lambda: dq.Sink(broker, f"{name}.steady").stats().settled == 1)
        child.kill()
    # When another process takes it up, long before the grace of 20 s is over
    with Child(APP, broker.root, name) as child:
        assert child.hear()[0] == "runs"
        assert child.hear(5) == ["shaky", 4]
        until(lambda: dq.Sink(broker, f"{name}.shaky").stats().settled == 1)
        child.process.send_signal(signal.SIGTERM)
        assert child.wait() == 0
        assert child.hear_rest() == []


# --- stop --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Handlers wait at it; it opens at the end, so that no thread stays."""
    event = threading.Event()
    yield event
    event.set()


def test_a_stop_gives_back_what_is_not_begun_and_waits_for_the_rest(
    broker: BrokerManager, name: str, gate: threading.Event
) -> None:
    """H9: no attempt is burned by it."""
    app = App(broker, sink=name)
    begun: list[int] = []

    @app.handler(name, max_in_flight=1)
    def wait(payload: int) -> None:
        begun.append(payload)
        gate.wait()

    for n in range(3):
        app.publish(name, n)
    running = Threaded(app.run)
    until(lambda: begun)
    app.stop()
    until(lambda: dq.Sink(broker, f"{name}.wait").stats().in_hand == 1)  # the others are back; it has not returned
    gate.set()
    running.result()
    assert begun == [0]
    with dq.Sink(broker, f"{name}.wait").consumer(idle_timeout=0.3) as consumer:
        assert [(task.payload, task.attempt) for task in consumer] == [(1, 1), (2, 1)]


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("way", ["drain_seconds", "now"])
def test_what_is_not_done_in_time_goes_back(
    broker: BrokerManager, name: str, gate: threading.Event, caplog: pytest.LogCaptureFixture, kind: str, way: str
) -> None:
    """H9: after `drain_seconds`, or at once when it is told to stop a second time."""
    app = App(broker, sink=name, config=AppConfig(drain_seconds=0.1 if way == "drain_seconds" else 60))
    begun: list[int] = []

    def wait(payload: int) -> None:
        begun.append(payload)
        gate.wait()

    async def wait_async(payload: int) -> None:
        begun.append(payload)
        await asyncio.sleep(60)

    app.handler(name, name="wait")(wait if kind == "sync" else wait_async)
    app.publish(name, 7)
    running = Threaded(app.run)
    until(lambda: begun)
    app.stop()
    if way == "now":
        app.stop(now=True)
    running.result()
    assert f"given back: 1 task(s): wait with {name}/0/0" in caplog.text
    assert ("told to stop at once" if way == "now" else "not done within 0.1 s") in caplog.text
    with dq.Sink(broker, f"{name}.wait").consumer(idle_timeout=5) as consumer:
        task = next(iter(consumer))
        assert (task.payload, task.attempt) == (7, 1)
        task.ack()


def test_a_second_signal_stops_a_script_at_once(broker: BrokerManager, name: str) -> None:
    """H9: SIGTERM drains, and the second one does not wait."""
    broker.publish(name, 1)
    code = (
        "import sys, time\nfrom dq import App\napp = App(sys.argv[1], sink=sys.argv[2])\n"
        "def wait(payload):\n    say('begun')\n    time.sleep(60)\n"
        "app.handler(sys.argv[2], name='wait')(wait)\napp.run()\nsay('returned')\n"
    )
    with Child(code, broker.root, name) as child:
        assert child.hear() == "begun"
        child.process.send_signal(signal.SIGTERM)
        until(lambda: b"stopping: waiting up to" in child.errors)
        assert child.process.poll() is None
        child.process.send_signal(signal.SIGTERM)
        assert child.hear(5) == "returned"
        assert child.wait(5) == 0
    with dq.Sink(broker, f"{name}.wait").consumer(idle_timeout=5) as consumer:
        assert next(iter(consumer)).attempt == 1


# --- other engines -----------------------------------------------------------------------------------------------------


def test_an_app_over_a_users_own_engine_imports_none_of_dqs() -> None:
    """H11: nothing of dq's broker, client or log is there after a whole run; of its transport, pipes to workers."""
    code = (
        "sys.path.insert(0, sys.argv[1])\nfrom scripted_engine import ScriptedEngine\nfrom dq import App\n"
        "engine, seen = ScriptedEngine(), []\napp = App(engine)\n"
        "app.handler('s', name='plain')(lambda payload: seen.append(payload))\n"
        "@app.handler('s')\nasync def h(payload: int) -> None: seen.append(payload)\n"
        "app.publish('s', 1)\napp.run(burst=True)\nsay(seen)\n"
        "say(sorted(name for name in sys.modules if name.startswith('dq.')))\n"
    )
    with Child(code, HERE) as child:
        assert child.hear() == [1, 1]
        imported = child.hear()
    assert "dq.app.application" in imported
    parts = {name.split(".")[1] for name in imported}
    assert not parts & {"broker", "client", "log", "embedded", "aio", "cli"}, imported
    assert "dq.app.dq_engine" not in imported

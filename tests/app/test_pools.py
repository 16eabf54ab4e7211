"""How many tasks run at once, what waits for them, and what becomes of settles that fail; over an engine of the tests' own."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager

import pytest
from scripted_engine import ScriptedEngine

from dq.app import Ack, App, AppConfig, DeadLetter, Drop, Release, Retry
from stage import Threaded, until


@contextmanager
def running(app: App):
    """The app runs in a thread; it is stopped at the end."""
    run = Threaded(app.run)
    try:
        yield run
    finally:
        app.stop()
        run.result()


class Gate:
    """Handlers wait at it, sync and async ones; it counts those that are there, and the most that were."""

    def __init__(self) -> None:
        self.inside = self.most = 0
        self._lock = threading.Lock()
        self.open = threading.Event()

    def enter(self, step: int) -> None:
        with self._lock:
            self.inside += step
            self.most = max(self.most, self.inside)

    def handle(self, payload) -> None:
        self.enter(1)
        self.open.wait()
        self.enter(-1)

    async def handle_async(self, payload) -> None:
        self.enter(1)
        while not self.open.is_set():
            await asyncio.sleep(0.002)
        self.enter(-1)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_at_most_so_many_tasks_run_at_once_and_so_many_wait(kind: str) -> None:
    """H5: `max_in_flight` tasks are in the handler, `mailbox` more at most are fetched, the rest is left to others."""
    engine, gate = ScriptedEngine(), Gate()
    app = App(engine, config=AppConfig(max_in_flight=7, mailbox=20, give_back_seconds=60))
    app.handler("s", name="h")(gate.handle if kind == "sync" else gate.handle_async)
    for n in range(100):
        app.publish("s", n)
    with running(app):
        held = until(lambda: engine.held.get("workers.h"))
        until(lambda: gate.inside == 7)
        # Ten are fetched at once: one half of the mailbox; the other half may be in an engine's own hand
        until(lambda: held.open == 10)
        gate.open.set()
        until(lambda: len(held.settled) == 100)
    assert gate.most == 7
    assert max(held.fetches) == 10
    assert sorted(payload for payload, _ in held.settled) == list(range(100))


def test_a_handler_may_have_a_limit_of_its_own() -> None:
    """H5: `max_in_flight` of a handler stands before that of the app."""
    engine, gate = ScriptedEngine(), Gate()
    app = App(engine)
    app.handler("s", name="h", max_in_flight=3)(gate.handle)
    for n in range(20):
        app.publish("s", n)
    with running(app):
        until(lambda: gate.inside == 3)
        gate.open.set()
        until(lambda: len(engine.held["workers.h"].settled) == 20)
    assert gate.most == 3


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_full_mailbox_holds_back_its_own_streams_alone(kind: str) -> None:
    """H5: a handler that stands still costs another one nothing."""
    engine, gate = ScriptedEngine(), Gate()
    app = App(engine, config=AppConfig(max_in_flight=2, mailbox=2))
    app.handler("slow", name="slow")(gate.handle if kind == "sync" else gate.handle_async)
    done: list[int] = []

    @app.handler("quick", name="quick")
    async def quick(payload: int) -> None:
        done.append(payload)

    for n in range(50):
        app.publish("slow", n)
    with running(app):
        until(lambda: gate.inside == 2)
        for n in range(50):
            app.publish("quick", n)
        until(lambda: len(done) == 50)
        assert gate.inside == 2
        gate.open.set()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_what_waits_for_long_behind_slow_tasks_goes_back(kind: str) -> None:
    """Others may be free: what no thread has begun on within `give_back_seconds` is released, no attempt burned."""
    engine, gate = ScriptedEngine(), Gate()
    app = App(engine, config=AppConfig(max_in_flight=1, give_back_seconds=0.1))
    app.handler("s", name="h")(gate.handle if kind == "sync" else gate.handle_async)
    for n in range(5):
        app.publish("s", n)
    with running(app):
        held = until(lambda: engine.held.get("workers.h"))
        until(lambda: len(held.settled) == 4)
        assert {type(verdict) for _, verdict in held.settled} == {Release}
        gate.open.set()
        until(lambda: held.backlog() == 0)
    assert sorted(payload for payload, verdict in held.settled if isinstance(verdict, Ack)) == [0, 1, 2, 3, 4]


def test_threads_are_added_only_while_all_are_busy() -> None:
    """Tasks that take no time run in one thread; as many as are slow at once get one each."""
    engine, gate = ScriptedEngine(), Gate()
    app = App(engine)
    threads: set[int] = set()

    @app.handler("quick")
    def quick(payload: int) -> None:
        threads.add(threading.get_ident())

    app.handler("slow", name="slow")(gate.handle)
    for n in range(500):
        app.publish("quick", n)
    with running(app):
        until(lambda: len(engine.held["workers.quick"].settled) == 500 if "workers.quick" in engine.held else False)
        assert len(threads) <= 3  # one, but for a machine that was busy
        for n in range(40):
            app.publish("slow", n)
        until(lambda: gate.inside == 40)
        gate.open.set()


# --- what the engine is told -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_each_end_of_a_handler_is_told_as_it_is(kind: str) -> None:
    """H2: None, each outcome, an exception, anything else, and a payload that does not fit."""
    engine = ScriptedEngine()
    app = App(engine, config=AppConfig(handler_max_attempts=1))
    said = {
        "none": None, "ack": Ack(), "drop": Drop(), "retry": Retry(after=3), "dead": DeadLetter("no such user"), "other": "ok",
    }  # fmt: skip

    def handle(payload: str) -> object:
        if payload == "raise":
            raise LookupError("no table")
        return said[payload]

    async def handle_async(payload: str) -> object:
        await asyncio.sleep(0)
        return handle(payload)

    app.handler("s", name="h")(handle if kind == "sync" else handle_async)
    for payload in [*said, "raise", 17]:
        app.publish("s", payload)
    app.run(burst=True)
    told = {}
    for payload, verdict in engine.held["workers.h"].settled:
        told.setdefault(payload, verdict)
    assert (told["none"], told["ack"], told["drop"], told["retry"]) == (Ack(), Ack(), Drop(), Retry(after=3))
    assert told["dead"] == DeadLetter("no such user")
    # One that returns anything else is a TypeError at that task, and a payload that does not fit says why: neither comes again
    assert isinstance(told["other"], DeadLetter)
    assert told["other"].reason.startswith("TypeError: a handler returns None, an Outcome")
    assert isinstance(told[17], DeadLetter)
    assert told[17].reason == "the payload does not fit handler 'h': Expected `str`, got `int`"
    assert isinstance(told["raise"], Retry)
    assert told["raise"].error == "LookupError: no table"
    assert 'raise LookupError("no table")' in told["raise"].traceback


def test_an_async_handler_may_use_what_needs_a_task_of_asyncio() -> None:
    engine = ScriptedEngine()
    app = App(engine, config=AppConfig(handler_max_attempts=1))

    @app.handler("s", name="h", timeout=0.05)
    async def h(payload: str) -> None:
        if payload == "own":
            async with asyncio.timeout(5), asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(0))
        elif payload == "cancelled":
            asyncio.current_task().cancel()
            await asyncio.sleep(0)
        else:
            await asyncio.sleep(30)

    for payload in ("cancelled", "late", "own"):
        app.publish("s", payload)
    app.run(burst=True)
    told = dict(reversed(engine.held["workers.h"].settled))
    assert told["own"] == Ack()
    assert told["late"].error == "HandlerTimeout: it ran longer than 0.05 s, and was cancelled"
    assert told["cancelled"].error == "CancelledError: "


def test_a_task_that_its_handler_has_settled_is_not_settled_again() -> None:
    engine = ScriptedEngine()
    app = App(engine)

    @app.handler("s", name="h")
    def h(payload: int) -> object:
        return None

    app.publish("s", 1)
    subscribe = engine.subscribe
    engine.subscribe = lambda *args, **wishes: _settled_by_itself(subscribe(*args, **wishes))
    run = Threaded(app.run)
    until(lambda: engine.held.get("workers.h") and engine.held["workers.h"].open == 1)
    app.stop()
    run.result()
    assert engine.held["workers.h"].settled == []


def _settled_by_itself(held):
    for given in held.waiting:
        given.outcome = "ack"
    return held


# --- settles that fail -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("settle_waits", [False, True])
def test_a_settle_that_fails_is_tried_again(kind: str, settle_waits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """H6: with backoff, and without the handler running once more."""
    failures: dict[int, int] = {}
    calls: list[int] = []

    def refuse(delivery, verdict) -> None:
        failures[delivery.payload] = failures.get(delivery.payload, 0) + 1
        if failures[delivery.payload] <= 2:
            raise ConnectionError("the broker is away")

    engine = ScriptedEngine(refuse)
    monkeypatch.setattr("scripted_engine.Held.settle_waits", settle_waits)
    app = App(engine)

    def handle(payload: int) -> None:
        calls.append(payload)

    async def handle_async(payload: int) -> None:
        calls.append(payload)

    app.handler("s", name="h")(handle if kind == "sync" else handle_async)
    for n in range(3):
        app.publish("s", n)
    app.run(burst=True)
    assert sorted(payload for payload, _ in engine.held["workers.h"].settled) == [0, 1, 2]
    assert sorted(calls) == [0, 1, 2]
    assert set(failures.values()) == {3}


def test_a_settle_is_given_up_after_so_many_tries(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """H6: 8 times by default; the engine then delivers the task again."""
    monkeypatch.setattr("dq.app.acks.backoff", lambda attempts, jitter: 0.001)
    tries: list[object] = []

    def refuse(delivery, verdict) -> None:
        tries.append(verdict)
        raise ConnectionError("the broker is away")

    engine = ScriptedEngine(refuse)
    app = App(engine)
    app.handler("s", name="h")(lambda payload: None)
    app.publish("s", 1)
    with running(app):
        until(lambda: "could not be settled" in caplog.text)
    assert len(tries) == 1 + 8
    assert "s/0/0 could not be settled by Ack and will come again: ConnectionError" in caplog.text


def test_nothing_new_is_fetched_while_too_many_settles_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """H6: the queue of settles is bounded."""
    monkeypatch.setattr("dq.app.acks.backoff", lambda attempts, jitter: 0.05)
    away = threading.Event()
    away.set()

    def refuse(delivery, verdict) -> None:
        if away.is_set():
            raise ConnectionError("the broker is away")

    engine = ScriptedEngine(refuse)
    app = App(engine, config=AppConfig(mailbox=2, ack_retry_queue=4, ack_retry_attempts=1_000))
    app.handler("s", name="h")(lambda payload: None)
    for n in range(30):
        app.publish("s", n)
    with running(app):
        held = until(lambda: engine.held.get("workers.h"))
        until(lambda: held.open >= 4)
        assert not held.settled
        assert held.open <= 6
        away.clear()
        until(lambda: len(held.settled) == 30)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_an_app_that_is_stopped_before_it_has_begun_begins_no_task(kind: str) -> None:
    """H9: before `run`, and while it subscribes."""
    engine, gate = ScriptedEngine(), Gate()
    app = App(engine)
    app.handler("s", name="h")(gate.handle if kind == "sync" else gate.handle_async)
    app.publish("s", 1)
    app.stop()
    app.run()
    assert engine.held == {}
    subscribe = engine.subscribe

    def subscribe_slowly(*args, **wishes):
        app.stop(now=True)
        return subscribe(*args, **wishes)

    engine.subscribe = subscribe_slowly
    app.run()
    held = engine.held["workers.h"]
    assert (gate.most, held.fetches, held.closed) == (0, [], True)
    # Then the next run is not stopped by what was said to this one
    engine.subscribe = subscribe
    gate.open.set()
    app.run(burst=True)
    assert gate.most == 1


def test_what_an_engine_raises_ends_the_app_in_order() -> None:
    engine = ScriptedEngine()
    app = App(engine)
    app.handler("s", name="h")(lambda payload: None)
    run = Threaded(app.run)
    held = until(lambda: engine.held.get("workers.h"))
    with engine.changed:
        engine.broken = OSError("the engine is on fire")
        engine.changed.notify_all()
    with pytest.raises(OSError, match="on fire"):
        run.result()
    assert held.flushed
    assert held.closed

"""Tasks whose time is over while they wait in the app: they are settled as expired, and no handler sees them."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import process_jobs
import pytest
from scripted_engine import ScriptedEngine

import dq
from dq import App, BrokerManager
from dq.app import AppConfig
from dq.app.dq_engine import DqSubscription
from dq.client.taker import Taker
from stage import Threaded, until


class Expiring(ScriptedEngine):
    """Its tasks expire once `over` is set, but for those whose payload is a file's or "first"."""

    def __init__(self) -> None:
        super().__init__()
        self.over = threading.Event()
        self.expired: list[str] = []

    def subscribe(self, sink, streams, **options):
        held = super().subscribe(sink, streams, **options)
        held.expiring = True
        held.expire = lambda delivery: self._expire(held, delivery)
        return held

    def _expire(self, held, delivery) -> bool:
        if not self.over.is_set() or delivery.payload == "first":
            return False
        self.expired.append(delivery.id)
        held.open -= 1
        return True


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_what_expires_in_the_mailbox_is_not_begun(kind: str) -> None:
    engine, gate = Expiring(), threading.Event()
    app = App(engine, config=AppConfig(max_in_flight=1, give_back_seconds=60))
    seen: list[str] = []

    def handle(payload: str) -> None:
        seen.append(payload)
        gate.wait()

    async def handle_async(payload: str) -> None:
        handle(payload)

    app.handler("s", name="h")(handle if kind == "sync" else handle_async)
    for payload in ("first", "old", "older"):
        app.publish("s", payload)
    # Given a handler that is busy, and two tasks that wait behind it
    running = Threaded(lambda: app.run(burst=True))
    until(lambda: seen)
    # When their time is over
    engine.over.set()
    gate.set()
    # Then they are settled as that, and the app has nothing left to do
    running.result()
    assert seen == ["first"]
    assert engine.expired == ["s/0/1", "s/0/2"]


def test_what_expires_in_the_mailbox_goes_to_no_worker_process(tmp_path: Path) -> None:
    engine, app, file = Expiring(), process_jobs.hard, tmp_path / "seen"
    engine.over.set()
    before = app.exchange_engine(engine)
    try:
        app.publish("hard", {"n": 1, "file": str(file)})
        app.run(burst=True)
    finally:
        app.exchange_engine(before)
    assert engine.expired == ["hard/0/0"]
    assert not file.exists()


def test_a_task_of_dqs_own_counts_as_expired(broker: BrokerManager, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broker.publish(name, "stays")
    broker.publish(name, "goes", expires=60)
    sink = broker.sink(name, name)
    subscription = DqSubscription(Taker(broker, name, sink=name), sink)
    tasks = []
    until(lambda: tasks.extend(subscription.fetch(10, 1)) or len(tasks) == 2)
    # Given two tasks that were fetched in time
    assert subscription.expiring
    assert [subscription.expire(task) for task in tasks] == [False, False]
    # When a minute has passed before they are begun
    later = time.time() + 61
    monkeypatch.setattr("dq.client.held_lease.time", SimpleNamespace(time=lambda: later, monotonic=time.monotonic))
    # Then the one that expires is settled as that, once
    assert [subscription.expire(task) for task in tasks] == [False, True]
    assert not subscription.expire(tasks[1])
    assert tasks[1].outcome is dq.Outcome.DROP
    tasks[0].ack()
    subscription.flush(10)
    subscription.close()
    figures = sink.stats()
    assert (figures.expired, figures.settled, figures.waiting) == (1, 1, 0)

"""An app that is given objects, and one that is stopped before it runs."""

from __future__ import annotations

import dq
from dq import App, BrokerManager, Task
from stage import Threaded


def test_an_object_is_registered_by_its_method(broker: BrokerManager, name: str) -> None:
    """H1: its streams come from its attributes, and those of all handlers are subscribed to by themselves."""
    app = App(broker, sink=name)

    class Mailer:
        streams = (f"{name}-a", f"{name}-b")

        def __init__(self) -> None:
            self.seen: list[tuple[str, str]] = []

        def handle(self, payload: str, task: Task) -> None:
            self.seen.append((task.stream, payload))

    mailer = app.register(Mailer())
    for letter in "ab":
        app.publish(f"{name}-{letter}", letter)
    app.run(burst=True)
    assert sorted(mailer.seen) == [(f"{name}-a", "a"), (f"{name}-b", "b")]
    assert sorted(dq.Sink(broker, f"{name}.Mailer").stats().streams) == [f"{name}-a", f"{name}-b"]


def test_a_stop_before_the_run_is_heeded(broker: BrokerManager, name: str) -> None:
    """H9: a signal or another thread may be quicker than the run."""
    app = App(broker, sink=name)
    app.handler(name, name="h")(lambda payload: None)
    app.stop()
    run = Threaded(app.run)
    run.result(5)
    assert not run.running

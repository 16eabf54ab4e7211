"""Handlers over dq's own broker: what they get, and what becomes of what they return."""

from __future__ import annotations

from dataclasses import dataclass

import dq
from dq import App, BrokerManager, Task


@dataclass
class Mail:
    to: str


def test_a_handler_gets_the_payload_as_it_is_annotated_and_the_task(broker: BrokerManager, name: str) -> None:
    """H1, H2."""
    app = App(broker, sink=name)
    seen: list[tuple[Mail, str, int]] = []

    @app.handler(name)
    def send(mail: Mail, task: Task) -> None:
        seen.append((mail, task.stream, task.attempt))

    # When a record is published and all is handled
    app.publish(name, {"to": "ada@example.org"})
    app.run(burst=True)
    # Then the function has seen it once, and its sink has settled it
    assert seen == [(Mail("ada@example.org"), name, 1)]
    assert dq.Sink(broker, f"{name}.send").stats().settled == 1

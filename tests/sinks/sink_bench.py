"""What the tests of sinks share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dq import Broker, Consumer


def publish(broker: Broker, stream: str, payloads: Iterable[Any], **options: Any) -> list[str]:
    """Publishes and returns the ids."""
    return [broker.publish(stream, payload, **options).id for payload in payloads]


def taken(broker: Broker, *streams: str, sink: str, idle: float = 0.15, **options: Any) -> list[Any]:
    """The payloads that a consumer of a sink gets and acks until nothing comes any more."""
    with Consumer(broker, *streams, sink=sink, idle_timeout=idle, **options) as consumer:
        return rest_of(consumer)


def rest_of(consumer: Consumer) -> list[Any]:
    """The payloads that a consumer gets and acks until nothing comes any more."""
    payloads = []
    for task in consumer:
        payloads.append(task.payload)
        task.ack()
    return payloads

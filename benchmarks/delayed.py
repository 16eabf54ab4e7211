"""What a million delayed records cost while they wait, and how late others come beside them.

Memory: the resident memory of the consumer broker, before they are published and when it knows of all. Punctual: records that
are published with a delay of 0.1 s, one at a time, until they are in the hand of a consumer.
"""

from __future__ import annotations

import random
import time

from dq import BrokerManager, Consumer, Publisher, TaskIn
from measure import Bench, Row, broker_pids, memory_mb, say

DELAYED, PUNCTUAL = 1_000_000, 100
_HOUR, _MONTH = 3_600.0, 30 * 86_400.0


def delayed(bench: Bench) -> list[Row]:
    """Memory in MB more than before, and lateness in milliseconds."""
    count, punctual, chance = bench.records(DELAYED), bench.times(PUNCTUAL), random.Random(1)
    with bench.broker() as broker, Publisher(broker, "delayed") as publisher:
        pid = broker_pids(broker)[2]
        before = memory_mb(pid)
        publisher.publish_many(TaskIn({"n": n}, delay=_HOUR + chance.random() * _MONTH) for n in range(count))
        while _waiting(broker) < count:
            time.sleep(0.05)
        after = memory_mb(pid)
        late = _lateness(broker, publisher, punctual)
    more = after["rss"] - before["rss"]
    say(f"delayed: {count:,} wait, {before} then {after}; late by {late[len(late) // 2]:.1f} ms, at most {late[-1]:.1f} ms")
    return [
        Row("delayed", f"consumer broker, more with {count:,} delayed", "MB", [more], "<=", 60, notes={"peak": after["peak"]}),
        Row("delayed", f"the latest of {punctual} delayed records", "ms", [late[-1]], "<=", 100),
    ]


def _waiting(broker: BrokerManager) -> int:
    waiting: int = broker.stats()["consumer_broker"].get("later", {}).get("delayed", {}).get("waiting", 0)
    return waiting


def _lateness(broker: BrokerManager, publisher: Publisher, count: int) -> list[float]:
    late = []
    with Consumer(broker, "delayed", sink="delayed") as consumer:
        for _ in range(count):
            publisher.publish({"due": time.time() + 0.1}, delay=0.1)
            task = next(iter(consumer))
            late.append((time.time() - task.payload["due"]) * 1e3)
            task.ack()
    return sorted(late)

"""What a run found, as one value: the page shows it, `--json` prints it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dq.demo.examine import Totals
from dq.demo.kills import BrokerKill, ConsumerKill, Unanswered
from dq.demo.source import Work


@dataclass(frozen=True, slots=True)
class Spread:
    """The middle and the end of a distribution, in milliseconds."""

    count: int
    p50: float
    p99: float


def spread_of(seconds: Sequence[float]) -> Spread:
    """p50 and p99 by the nearest rank."""
    ranked = sorted(seconds)

    def at(part: float) -> float:
        return ranked[max(math.ceil(part * len(ranked)) - 1, 0)] * 1000 if ranked else 0.0

    return Spread(len(ranked), at(0.50), at(0.99))


@dataclass(frozen=True, slots=True)
class Speed:
    """Records through the same processes, as fast as they go."""

    records: int
    seconds: float

    @property
    def a_second(self) -> float:
        """From the first `publish_many` to the last handler."""
        return self.records / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """All of it.

    Attributes:
        publishers, consumers: processes.
        sent: tasks with a receipt.
        stored: records in the stream of tasks.
        handled: tasks with a result.
        redelivered: tasks leased once more.
        twice: results that came twice and were counted once.
        by_consumer: tasks whose first result is of this consumer.
        totals, direct: the same by dq and in one process, with the seconds each took.
        differing: names of tasks whose result is not that of the direct count.
        to_kill: whether somebody was to be killed.
        to_receipt, to_handler: of the tasks, from `publish()` called; `idle` with nothing waiting.
        log: where it lies.
        jq: a command that looks into it.
        yours: the command for one's own input.
    """

    work: Work
    publishers: int
    consumers: int
    sent: int
    stored: int
    handled: int
    redelivered: int
    twice: int
    by_consumer: dict[int, int]
    totals: Totals
    seconds: float
    direct: Totals
    direct_seconds: float
    to_receipt: Spread
    to_handler: Spread
    idle: Spread
    speed: Speed
    to_kill: bool
    consumer_kill: ConsumerKill | None
    broker_kill: BrokerKill | None
    unanswered: Unanswered | None
    log: str
    jq: str
    yours: str
    all_seconds: float = field(default=0.0)

    @property
    def lost(self) -> int:
        """Tasks that were sent and have no result."""
        return self.sent - self.handled

    def problems(self) -> list[str]:
        """What is not as it must be; empty when all is well."""
        found = []
        if self.sent != len(self.work.payloads):
            found.append(f"{self.sent} of {len(self.work.payloads)} tasks have a receipt")
        if self.stored != self.sent:
            found.append(f"the stream has {self.stored} records for {self.sent} receipts")
        if self.lost:
            found.append(f"{self.lost} tasks have no result")
        if self.totals != self.direct:
            found.append("the totals are not those of the direct count: did the input change meanwhile?")
        return found

    def to_json(self) -> dict[str, Any]:
        """As one JSON object."""
        problems = self.problems()
        return {
            "ok": not problems,
            "problems": problems,
            "input": {"source": self.work.title, "unit": self.work.unit, "tasks": len(self.work.payloads)},
            "publishers": self.publishers,
            "consumers": self.consumers,
            "sent": self.sent,
            "handled": self.handled,
            "redelivered": self.redelivered,
            "twice": self.twice,
            "lost": self.lost,
            "by_consumer": {str(number): count for number, count in sorted(self.by_consumer.items())},
            "kills": self._kills(),
            "latency_ms": {
                "publish_to_receipt": _spread(self.to_receipt),
                "publish_to_handler": _spread(self.to_handler),
                "publish_to_handler_idle": _spread(self.idle),
            },
            "speed": {
                "records": self.speed.records,
                "seconds": round(self.speed.seconds, 3),
                "records_a_second": round(self.speed.a_second),
                "record_bytes": 210,
            },
            "totals": _totals(self.totals, self.seconds),
            "direct": _totals(self.direct, self.direct_seconds),
            "log": self.log,
            "jq": self.jq,
            "yours": self.yours,
            "seconds": round(self.all_seconds, 1),
        }

    def _kills(self) -> list[dict[str, Any]]:
        kills: list[dict[str, Any]] = []
        one, other, waited = self.consumer_kill, self.broker_kill, self.unanswered
        if one is not None:
            kills.append(
                {
                    "who": "consumer", "number": one.number, "pid": one.pid, "at_seconds": round(one.second, 3),
                    "in_hand": one.in_hand, "task": one.task, "name": one.name, "by": one.by,
                    "received_ms": round(one.received_ms, 1), "begun_ms": round(one.begun_ms, 1),
                    "new": one.instead[0], "new_pid": one.instead[1],
                }
            )  # fmt: skip
        if other is not None and waited is not None:
            kills.append(
                {
                    "who": "PublisherBroker", "pid": other.pid, "at_seconds": round(other.second, 3),
                    "in_hand": waited.count, "new_pid": other.new_pid, "ready_ms": round(other.ready_ms, 1),
                    "first_receipt_ms": round(waited.first_ms, 1), "last_receipt_ms": round(waited.last_ms, 1),
                }
            )  # fmt: skip
        return kills


def _spread(spread: Spread) -> dict[str, float]:
    return {"count": spread.count, "p50": round(spread.p50, 3), "p99": round(spread.p99, 3)}


def _totals(totals: Totals, seconds: float) -> dict[str, Any]:
    return {
        "tasks": totals.tasks, **totals.figures, "sha256": totals.sha256, "problems": totals.problems,
        "seconds": round(seconds, 2),
    }  # fmt: skip

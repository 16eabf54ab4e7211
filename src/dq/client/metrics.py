"""Every counter and latency of a broker at one moment, as one frozen value."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dq.client.stats import SinkStats
from dq.model.histogram import Histogram
from dq.model.settings import StreamSettings
from dq.processes import usage_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessMetrics:
    """One process of the broker.

    Attributes:
        pid: its number; None while it is being replaced.
        ready: whether it serves.
        restarts: how often one was replaced since the manager's start.
        resident_bytes: memory that it has; None where the system does not say.
        cpu_seconds: of a processor, that it has used since its start; None as before.
        started_at: when it was started, in seconds since 1970; None as before.
    """

    pid: int | None
    ready: bool
    restarts: int
    resident_bytes: int | None
    cpu_seconds: float | None
    started_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamMetrics:
    """One stream, in records unless said.

    Attributes:
        settings: what it was made with.
        published: stored since it was made, of all buckets.
        records: there now.
        bytes: of its log on disk.
        segments: files of its log.
        trimmed: dropped by its limits.
        removed: taken out by `remove`.
        unsynced: bytes that are written and not flushed yet, as its durability allows.
        delayed: waiting for their time.
    """

    settings: StreamSettings
    published: int
    records: int
    bytes: int
    segments: int
    trimmed: int
    removed: int
    unsynced: int
    delayed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What one question to the three processes brought.

    Counts of records begin anew with their broker where it says so; those of streams and sinks do not.

    Attributes:
        at: when it was asked, in seconds since 1970.
        root: the data directory.
        manager, publisher_broker, consumer_broker: the processes.
        publishers, consumers, readers, listeners: clients that are there now.
        commits: flushes that the publisher broker has waited for, since its start.
        batches, records: that it has stored, since its start.
        commit_seconds: how long each commit took, from the first write to the flush.
        store_seconds: how long records took from the arrival of their commit's first batch until they were stored.
        streams, sinks: each, by name.
        oldest_at: by sink, when the oldest record that it has not settled was published, in seconds since 1970. One that has
            settled all is missing, and so is one whose streams cannot be read from outside.
        hand_seconds: by sink, how long records were in a consumer's hand until they were settled, since the start of the
            consumer broker.
        pids: by consumer, of its process.
        closed: streams and sinks that cannot be used, and why.
    """

    at: float
    root: str
    manager: ProcessMetrics
    publisher_broker: ProcessMetrics
    consumer_broker: ProcessMetrics
    publishers: int
    consumers: int
    readers: int
    listeners: int
    commits: int
    batches: int
    records: int
    commit_seconds: Histogram
    store_seconds: Histogram
    streams: Mapping[str, StreamMetrics]
    sinks: Mapping[str, SinkStats]
    oldest_at: Mapping[str, float]
    hand_seconds: Mapping[str, Histogram]
    pids: Mapping[str, int]
    closed: Mapping[str, str]

    @property
    def processes(self) -> dict[str, ProcessMetrics]:
        """The three, by name."""
        return {
            "manager": self.manager, "publisher_broker": self.publisher_broker, "consumer_broker": self.consumer_broker,
        }  # fmt: skip

    @classmethod
    def of(cls, status: Mapping[str, Any], oldest_at: Mapping[str, float]) -> Snapshot:
        """From what `Broker.stats` tells. A broker that is being replaced has told nothing: its part is empty."""
        published, consumed = status["publisher_broker"], status["consumer_broker"]
        later, sinks = consumed.get("later", {}), consumed.get("sinks", {})
        return cls(
            at=time.time(),
            root=status["root"],
            manager=_process({"pid": status["pid"], "ready": True}),
            publisher_broker=_process(published),
            consumer_broker=_process(consumed),
            publishers=len(published.get("publishers", ())),
            consumers=len(consumed.get("consumers", ())),
            readers=len(published.get("readers", ())),
            listeners=sum(1 for each in consumed.get("listeners", {}).values() if each["channels"]),
            commits=published.get("commits", 0),
            batches=published.get("batches", 0),
            records=published.get("records", 0),
            commit_seconds=_histogram(published.get("commit_seconds")),
            store_seconds=_histogram(published.get("store_seconds")),
            streams={name: _stream(told, later.get(name, {})) for name, told in sorted(published.get("streams", {}).items())},
            sinks={name: SinkStats.of(told) for name, told in sorted(sinks.items())},
            oldest_at=dict(oldest_at),
            hand_seconds={name: _histogram(told.get("hand_seconds")) for name, told in sorted(sinks.items())},
            pids={name: told["pid"] for name, told in consumed.get("consumers", {}).items()},
            closed={**published.get("closed", {}), **consumed.get("closed", {})},
        )


def _stream(told: Mapping[str, Any], later: Mapping[str, Any]) -> StreamMetrics:
    numbers = {name: told[name] for name in ("records", "bytes", "segments", "trimmed", "removed", "unsynced")}
    settings = StreamSettings.from_dict(told["settings"])
    return StreamMetrics(settings=settings, published=sum(told["ends"]), delayed=later.get("waiting", 0), **numbers)


def _histogram(told: Mapping[str, Any] | None) -> Histogram:
    return Histogram() if told is None else Histogram.from_dict(told)


def _process(told: Mapping[str, Any]) -> ProcessMetrics:
    usage = usage_of(told["pid"]) if told.get("pid") else None
    return ProcessMetrics(
        pid=told.get("pid") or None,
        ready=told.get("ready", False),
        restarts=told.get("restarts", 0),
        resident_bytes=None if usage is None else usage.resident_bytes,
        cpu_seconds=None if usage is None else usage.cpu_seconds,
        started_at=None if usage is None else time.time() - usage.age,
    )

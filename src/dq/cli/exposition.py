"""A snapshot as Prometheus takes it: one table of metrics, by the naming rules of https://prometheus.io/docs/practices/naming.

`docs/metrics.md` lists the same table, and a test compares both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from operator import attrgetter
from typing import Any, Final, NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from dq.client.metrics import Snapshot
from dq.client.stats import SinkStats
from dq.model.histogram import BOUNDS, Histogram

Sample = tuple[tuple[str, ...], Any]
"""Values of the labels, and a number or a `Histogram`."""
_EVERY = 3
"""Of the bounds of a histogram, each third is told: 18 series instead of 55, a factor of about three apart."""


class Family(NamedTuple):
    """One metric.

    Attributes:
        name: as it is shown, of a counter with `_total`.
        kind: counter, gauge or histogram.
        says: what it is, with its unit.
        labels: names of its labels.
        samples: its values, by those of its labels.
    """

    name: str
    kind: str
    says: str
    labels: tuple[str, ...]
    samples: Callable[[Snapshot], Iterable[Sample]]


def _one(name: str, kind: str, says: str, value: Callable[[Snapshot], Any]) -> Family:
    return Family(name, kind, says, (), lambda snapshot: [((), value(snapshot))])


def _process(name: str, kind: str, says: str, field: str) -> Family:
    def samples(snapshot: Snapshot) -> Iterator[Sample]:
        for process, each in snapshot.processes.items():
            value = getattr(each, field)
            if value is not None:
                yield (process,), float(value)

    return Family(name, kind, says, ("process",), samples)


def _stream(name: str, kind: str, says: str, field: str) -> Family:
    return Family(
        name, kind, says, ("stream",),
        lambda snapshot: [((stream,), getattr(each, field)) for stream, each in snapshot.streams.items()],
    )  # fmt: skip


def _sink(name: str, kind: str, says: str, value: Callable[[SinkStats], float]) -> Family:
    return Family(
        name, kind, says, ("sink",), lambda snapshot: [((sink,), value(each)) for sink, each in snapshot.sinks.items()]
    )


FAMILIES: Final = (
    _one("dq_up", "gauge", "1: the broker answered.", lambda _: 1),
    Family(
        "dq_info", "gauge", "1, with the version of dq and the data directory.", ("version", "root"),
        lambda snapshot: [((version("dq-broker"), snapshot.root), 1)],
    ),
    _process("dq_process_ready", "gauge", "1 if the process serves, 0 while it is being replaced.", "ready"),
    _process("dq_process_restarts_total", "counter", "How often it was replaced since the manager's start.", "restarts"),
    _process("dq_process_resident_bytes", "gauge", "Memory of the process, in bytes.", "resident_bytes"),
    _process("dq_process_cpu_seconds_total", "counter", "Processor time of the process, in seconds.", "cpu_seconds"),
    _process("dq_process_start_time_seconds", "gauge", "When the process was started, in seconds since 1970.", "started_at"),
    Family(
        "dq_clients", "gauge", "Clients that are there, by kind.", ("kind",),
        lambda snapshot: [
            ((kind,), getattr(snapshot, f"{kind}s")) for kind in ("publisher", "consumer", "reader", "listener")
        ],
    ),
    _one("dq_closed", "gauge", "Streams and sinks that cannot be used.", lambda snapshot: len(snapshot.closed)),
    _one("dq_commits_total", "counter", "Commits since the publisher broker's start.", attrgetter("commits")),
    _one("dq_batches_total", "counter", "Batches stored since the publisher broker's start.", attrgetter("batches")),
    _one("dq_records_total", "counter", "Records stored since the publisher broker's start.", attrgetter("records")),
    _one("dq_commit_seconds", "histogram", "How long a commit took, its flush included.", attrgetter("commit_seconds")),
    _one("dq_store_seconds", "histogram", "From the arrival of records until they were stored.", attrgetter("store_seconds")),
    _stream("dq_stream_published_total", "counter", "Records stored since the stream was made.", "published"),
    _stream("dq_stream_records", "gauge", "Records that are there now.", "records"),
    _stream("dq_stream_bytes", "gauge", "Size of the stream's log, in bytes.", "bytes"),
    _stream("dq_stream_segments", "gauge", "Files of the stream's log.", "segments"),
    _stream("dq_stream_trimmed_total", "counter", "Records dropped by the stream's limits.", "trimmed"),
    _stream("dq_stream_removed_total", "counter", "Records taken out by hand.", "removed"),
    _stream("dq_stream_unsynced_bytes", "gauge", "Written and not flushed yet, as the durability allows.", "unsynced"),
    _stream("dq_stream_delayed", "gauge", "Records that wait for their time.", "delayed"),
    _sink("dq_sink_waiting", "gauge", "Records to be handed out.", lambda sink: sink.waiting),
    _sink("dq_sink_in_hand", "gauge", "Records in the hands of consumers.", lambda sink: sink.in_hand),
    _sink("dq_sink_delayed", "gauge", "Records to be tried again later.", lambda sink: sink.delayed),
    _sink("dq_sink_consumers", "gauge", "Consumers that are there.", lambda sink: len(sink.consumers)),
    _sink("dq_sink_paused", "gauge", "1 if the sink hands out nothing.", lambda sink: sink.paused),
    Family(
        "dq_sink_oldest_seconds", "gauge",
        "Age of the oldest record that is not settled, in seconds; missing where there is none or it cannot be read.",
        ("sink",), lambda snapshot: [((sink,), max(snapshot.at - at, 0.0)) for sink, at in sorted(snapshot.oldest_at.items())],
    ),
    _sink("dq_sink_settled_total", "counter", "Records settled: acked, dropped or dead-lettered.", lambda sink: sink.settled),
    _sink("dq_sink_dropped_total", "counter", "Of those, dropped.", lambda sink: sink.dropped),
    _sink("dq_sink_dead_lettered_total", "counter", "Of those, stored as dead letters.", lambda sink: sink.dead_lettered),
    _sink("dq_sink_retried_total", "counter", "Attempts that failed in a handler.", lambda sink: sink.retried),
    _sink("dq_sink_redelivered_total", "counter", "Records handed out once more.", lambda sink: sink.redelivered),
    _sink("dq_sink_lost_total", "counter", "Records in hand alone when their consumer was lost.", lambda sink: sink.lost),
    _sink("dq_sink_expired_total", "counter", "Records settled since their time was over.", lambda sink: sink.expired),
    _sink("dq_sink_filtered_total", "counter", "Records settled unseen, by topic or pattern.", lambda sink: sink.filtered),
    _sink("dq_sink_missed_total", "counter", "Records that were trimmed before they were settled.", lambda sink: sink.missed),
    _sink("dq_sink_late_acks_total", "counter", "Acks of records that were settled already.", lambda sink: sink.late_acks),
    Family(
        "dq_sink_hand_seconds", "histogram", "How long records were in a consumer's hand until they were settled.", ("sink",),
        lambda snapshot: [((sink,), each) for sink, each in snapshot.hand_seconds.items()],
    ),
)  # fmt: skip
"""All metrics, in the order in which they are shown."""


def _metric_of(family: Family, snapshot: Snapshot) -> Metric:
    if family.kind == "counter":
        counter = CounterMetricFamily(family.name.removesuffix("_total"), family.says, labels=family.labels)
        for labels, value in family.samples(snapshot):
            counter.add_metric(labels, float(value))
        return counter
    if family.kind == "gauge":
        gauge = GaugeMetricFamily(family.name, family.says, labels=family.labels)
        for labels, value in family.samples(snapshot):
            gauge.add_metric(labels, float(value))
        return gauge
    histogram = HistogramMetricFamily(family.name, family.says, labels=family.labels)
    for labels, value in family.samples(snapshot):
        histogram.add_metric(labels, _buckets(value), value.total)
    return histogram


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Cumulative counts at every third bound."""
    told, below = [], 0
    for index, bound in enumerate(BOUNDS):
        below += histogram.counts[index]
        if index % _EVERY == 0:
            told.append((f"{bound:g}", float(below)))
    return [*told, ("+Inf", float(histogram.count))]


class Exposition(Collector):
    """Collects from whatever gives a snapshot; None: the broker did not answer."""

    def __init__(self, snapshot: Callable[[], Snapshot | None]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        """All metrics; `dq_up 0` alone where there is no snapshot."""
        snapshot = self._snapshot()
        if snapshot is None:
            yield GaugeMetricFamily(FAMILIES[0].name, FAMILIES[0].says, value=0)
            return
        for family in FAMILIES:
            yield _metric_of(family, snapshot)

    def describe(self) -> Iterable[Metric]:
        """Nothing is asked when it is registered."""
        return []


def registry_of(snapshot: Callable[[], Snapshot | None]) -> CollectorRegistry:
    """A registry of these metrics alone."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Exposition(snapshot))
    return registry


def text_of(snapshot: Snapshot) -> str:
    """The text format, version 0.0.4."""
    return generate_latest(registry_of(lambda: snapshot)).decode()

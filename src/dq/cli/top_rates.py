"""What `dq top` shows: two snapshots and the time between them, made into rates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dq.client.metrics import Snapshot, StreamMetrics
from dq.client.stats import SinkStats
from dq.model.histogram import Histogram


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRow:
    """A stream: records a second that come in, and what is there."""

    name: str
    rate_in: float
    records: int
    bytes: int
    delayed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkRow:
    """A sink: records a second that it settles, and how it stands.

    Attributes:
        rate_in: that come into its streams.
        rate_out: that it settles, seen or unseen.
        oldest: age of the oldest that is not settled, in seconds; None: there is none, or it cannot be read.
        retries: a second that fail in a handler.
        dead: dead letters, since it was made.
        hand: quantiles in seconds, by name, of the time in a consumer's hand; None where nothing was settled meanwhile.
    """

    name: str
    paused: bool
    rate_in: float
    rate_out: float
    waiting: int
    in_hand: int
    delayed: int
    oldest: float | None
    retries: float
    dead: int
    consumers: int
    hand: Mapping[str, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerRow:
    """A consumer: records a second that it settles, and what it holds."""

    name: str
    sink: str
    pid: int | None
    rate: float
    in_hand: int
    silent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One look.

    Attributes:
        at: in seconds since 1970.
        seconds: since the look before; 0: this is the first one, and rates are not known.
        commits: a second.
        commit, store: quantiles in seconds, by name; None where nothing was stored meanwhile.
        closed: streams and sinks that cannot be used, and why.
    """

    at: float
    root: str
    seconds: float
    rate_in: float
    rate_out: float
    commits: float
    commit: Mapping[str, float] | None
    store: Mapping[str, float] | None
    streams: tuple[StreamRow, ...]
    sinks: tuple[SinkRow, ...]
    consumers: tuple[ConsumerRow, ...]
    closed: Mapping[str, str]


def view_of(now: Snapshot, before: Snapshot | None) -> View:
    """What came between two snapshots. Without the earlier one rates are 0, and latencies since the broker's start."""
    return _Between(now, before).view()


class _Between:
    def __init__(self, now: Snapshot, before: Snapshot | None) -> None:
        self._now, self._before = now, before
        self._seconds = 0.0 if before is None else max(now.at - before.at, 1e-6)

    def view(self) -> View:
        now, before, seconds = self._now, self._before, self._seconds
        streams = tuple(self._stream(name, stream) for name, stream in now.streams.items())
        into = {row.name: row.rate_in for row in streams}
        sinks = tuple(self._sink(name, sink, into) for name, sink in now.sinks.items())
        return View(
            at=now.at,
            root=now.root,
            seconds=seconds,
            rate_in=sum(into.values()),
            rate_out=sum(sink.rate_out for sink in sinks),
            commits=self._rate(now.commits, None if before is None else before.commits),
            commit=_quantiles(now.commit_seconds, None if before is None else before.commit_seconds),
            store=_quantiles(now.store_seconds, None if before is None else before.store_seconds),
            streams=streams,
            sinks=sinks,
            consumers=tuple(row for name, sink in now.sinks.items() for row in self._consumers(name, sink)),
            closed=now.closed,
        )

    def _rate(self, count: int, earlier: int | None) -> float:
        """What was not there before has just been made; a count that fell was begun anew."""
        since = count - (earlier or 0)
        return (count if since < 0 else since) / self._seconds if self._seconds else 0.0

    def _stream(self, name: str, stream: StreamMetrics) -> StreamRow:
        old = None if self._before is None else self._before.streams.get(name)
        return StreamRow(
            name=name,
            rate_in=self._rate(stream.published, None if old is None else old.published),
            records=stream.records,
            bytes=stream.bytes,
            delayed=stream.delayed,
        )

    def _sink(self, name: str, sink: SinkStats, into: Mapping[str, float]) -> SinkRow:
        now, before = self._now, self._before
        old = None if before is None else before.sinks.get(name)
        oldest = now.oldest_at.get(name)
        return SinkRow(
            name=name,
            paused=sink.paused,
            rate_in=sum(into.get(stream, 0.0) for stream in sink.streams),
            rate_out=self._rate(_over(sink), None if old is None else _over(old)),
            waiting=sink.waiting,
            in_hand=sink.in_hand,
            delayed=sink.delayed,
            oldest=None if oldest is None else max(now.at - oldest, 0.0),
            retries=self._rate(sink.retried, None if old is None else old.retried),
            dead=sink.dead_lettered,
            consumers=len(sink.consumers),
            hand=_quantiles(now.hand_seconds[name], None if before is None else before.hand_seconds.get(name)),
        )

    def _consumers(self, name: str, sink: SinkStats) -> Iterator[ConsumerRow]:
        old = None if self._before is None else self._before.sinks.get(name)
        for consumer, each in sink.consumers.items():
            had = None if old is None or consumer not in old.consumers else old.consumers[consumer].settled
            yield ConsumerRow(
                name=consumer,
                sink=name,
                pid=self._now.pids.get(consumer),
                rate=self._rate(each.settled, had),
                in_hand=each.in_hand,
                silent=each.silent,
            )


def _over(sink: SinkStats) -> int:
    return sink.settled + sink.filtered + sink.expired


def _quantiles(now: Histogram, before: Histogram | None) -> dict[str, float] | None:
    found = now if before is None else now.since(before)
    if not found.count:
        return None
    return {name: value or 0.0 for name, value in found.quantiles().items()}

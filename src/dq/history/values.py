"""What is told of the past: events of one record, and how a stream and its sinks stood at a moment. Frozen values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What can have happened to a record."""

    PUBLISHED = "published"
    """Its publisher sent it, and it was committed."""
    DELAYED = "delayed"
    """As above, to come at a later time: until then it waits among the delayed records of its stream."""
    CAME = "came"
    """Its time had come: it is a record of its stream from now on."""
    LEASED = "leased"
    """It went to a consumer."""
    DELIVERED = "delivered"
    """It went to a consumer of a sink without acks, and was settled by that."""
    EXTENDED = "extended"
    """Its consumer asked for more time."""
    ABANDONED = "abandoned"
    """Its client left it unsettled: it is not renewed any more."""
    RELEASED = "released"
    """It came back unstarted; no attempt was burned."""
    FAILED = "failed"
    """Its handler failed; it comes again."""
    OVERDUE = "overdue"
    """A deadline of its own passed while its consumer lived on; an attempt was burned."""
    LOST = "lost"
    """Its consumer was lost with this record alone in hand; an attempt was burned."""
    SUSPECTED = "suspected"
    """Its consumer was lost with several records in hand, and nobody knows which was to blame: no attempt was burned."""
    CLEARED = "cleared"
    """Another one turned out to be to blame."""
    PUT_OFF = "put off"
    """Its handler failed, and it comes again so late that it waits among the delayed records."""
    WAITS = "waits"
    """It stands among the delayed records now."""
    GIVEN_UP = "given up"
    """It is to be a dead letter."""
    BURIED = "dead letter"
    """It stands among the dead letters now."""
    REPLAYED = "replayed"
    """A dead letter was published once more, for the sink that had given it up."""
    ACKED = "acked"
    """Done."""
    DROPPED = "dropped"
    """Settled as not to be done."""
    EXPIRED = "expired"
    """Its time was over before the user's code had it."""
    SKIPPED = "skipped"
    """It does not match the sink's filter."""
    REMOVED = "removed"
    """It was taken out of its stream; of a dead letter: discarded."""
    BEFORE_START = "before start"
    """The sink began behind it."""
    SOUGHT = "sought"
    """The sink was moved: what was known of the record is void."""
    TRIMMED = "trimmed"
    """Its stream gave it up before the sink had settled it."""
    CUT = "cut"
    """Its stream lost its end after an unclean stop."""
    FORGOTTEN = "forgotten"
    """The sink was taken off its stream."""
    RESTARTED = "restarted"
    """The broker began anew while the record was in a hand; its consumer has a few seconds to come back to it."""
    KEPT = "kept"
    """Here the log of the sink begins: what was before is not kept, only how it had ended."""


SETTLED_BY = frozenset(
    {Kind.DELIVERED, Kind.ACKED, Kind.DROPPED, Kind.EXPIRED, Kind.SKIPPED, Kind.REMOVED, Kind.BEFORE_START, Kind.TRIMMED}
)
"""The events by which a record is over for a sink, beside that its dead letter is stored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEvent:
    """One thing that happened.

    Attributes:
        at: wall time in seconds since 1970; None: it is not known.
        kind: what.
        record: id of the record to which it happened: a retry or a replay makes a new one.
        sink: in which sink; "" where it is a matter of the stream.
        consumer, pid: who had or has it; 0 where the process is not known.
        publisher: who published it.
        lease: number of the lease.
        attempt: of a lease, the number of this delivery; of a failure or a loss, how many have been burned now.
        seconds: for how long: an extension, a delay.
        reason: why, in a word of dq or of the user.
        error: the error of a handler, or how a consumer was lost.
        other: id of the record that it became, or was before.
        committed: of what was published, when it was committed, where that is known.
    """

    at: float | None
    kind: Kind
    record: str
    sink: str = ""
    consumer: str = ""
    pid: int = 0
    publisher: str = ""
    lease: int | None = None
    attempt: int | None = None
    seconds: float | None = None
    reason: str = ""
    error: str = ""
    other: str = ""
    committed: float | None = None

    @property
    def moment(self) -> datetime | None:
        """`at`, in UTC."""
        return None if self.at is None else datetime.fromtimestamp(self.at, UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordState:
    """How a record stands for one sink.

    Attributes:
        sink: its name; of a dead letter or a late retry, the one by whose doing it is that; "" for a record that was published
            with a delay and has not come yet.
        record: its id.
        state: "waiting", "leased", "delayed", "suspect", "isolated", "dying" or "settled"; of a delayed record "delayed" or
            "came", of a dead letter "kept" or "replayed", and of both "removed".
        since: wall time of the event that brought it there; None: it is not known.
        by: kind of that event; None: it is not known.
        consumer, pid, lease: who has it in hand, or had it last.
        until: when its delay is over; None where there is none, or it is not known.
        attempts, error: burned so far, and the last error.
        other: id of the record that it became.
    """

    sink: str
    record: str
    state: str
    since: float | None = None
    by: Kind | None = None
    consumer: str = ""
    pid: int = 0
    lease: int | None = None
    until: float | None = None
    attempts: int = 0
    error: str = ""
    other: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSeen:
    """One of the records that a record has been: itself, those it came as again, its dead letters.

    Attributes:
        id: its place.
        published_at: by the wall clock of its publisher; None: it is not kept any more, or does not say.
        committed_at: by that of the broker; None where it is not known.
        publisher: who sent it; of dq's own `sink:<sink>` or `later:<stream>`.
        key, topic, name: its labels.
        only_for: the one sink that it is for; "" for all.
        due, expires: wall times; None where there is none.
        kept: whether it still stands in its stream.
    """

    id: str
    published_at: float | None = None
    committed_at: float | None = None
    publisher: str = ""
    key: str | None = None
    topic: str | None = None
    name: str = ""
    only_for: str = ""
    due: float | None = None
    expires: float | None = None
    kept: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The biography of a record.

    Attributes:
        id: the one that was asked for.
        records: all that it has been, the first one first.
        events: what happened, in the order of their times; what has no time comes last.
        states: how it stands now, for each sink; of its dead letters and delays too.
        gaps: what is not kept, a sentence each; empty where everything is.
        payload: a JSON value, or bytes; None also where it is not kept, or was taken out.
    """

    id: str
    records: tuple[RecordSeen, ...]
    events: tuple[HistoryEvent, ...]
    states: tuple[RecordState, ...]
    gaps: tuple[str, ...] = ()
    payload: Any = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it, without the payload."""
        fields = asdict(self)
        del fields["payload"]
        return fields


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketThen:
    """A bucket at a moment.

    Attributes:
        bucket: its number.
        first: the first record that is kept now; what stood below it then is not known.
        end: the first that was not committed then; None: that is not kept any more.
    """

    bucket: int
    first: int
    end: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldThen:
    """A lease at a moment.

    Attributes:
        consumer, pid: whose; 0 where the process is not known.
        lease: its number.
        bucket: of the stream.
        ranges: what of it was in hand: [first, stop) each.
        records: how many those were.
        since: when it was leased; None: before what is kept.
        alone: a suspect, leased alone.
    """

    consumer: str
    pid: int
    lease: int
    bucket: int
    ranges: tuple[tuple[int, int], ...]
    records: int
    since: float | None
    alone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BurnedThen:
    """A record that had burned attempts, and was not settled.

    Attributes:
        record: its id.
        attempts, error: how many, and the last error.
        state: where it stood, as `core/states.py` names it.
    """

    record: str
    attempts: int
    error: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkThen:
    """One sink over one stream at a moment, in records of that stream.

    Attributes:
        sink: its name.
        settled: over for it: settled, passed over, or before its start.
        waiting: committed and in no hand: new ones, those given back, and suspects; None where the end then is not known.
        in_hand, delayed, dying: as in `core/states.py`.
        paused: it handed out nothing.
        held: the leases.
        burned: the records that had burned attempts.
    """

    sink: str
    settled: int
    waiting: int | None
    in_hand: int
    delayed: int
    dying: int
    paused: bool
    held: tuple[HeldThen, ...] = ()
    burned: tuple[BurnedThen, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamThen:
    """A stream and its sinks at a moment.

    Attributes:
        stream: its name.
        at: the moment, wall time in seconds since 1970.
        buckets: each of them.
        sinks: those that were over it, and are there still.
        gaps: what is not kept, a sentence each.
    """

    stream: str
    at: float
    buckets: tuple[BucketThen, ...]
    sinks: tuple[SinkThen, ...]
    gaps: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)

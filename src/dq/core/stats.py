"""What can be seen of a sink from outside, as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass

from dq.core.book import Book
from dq.core.leases import Hand, Shard
from dq.core.ledger import Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardStats:
    """One shard, in records.

    Attributes:
        waiting: committed and to be leased: new, given back, and suspects.
        in_hand, delayed, suspect, dying: as in `states.py`.
        floor: all below is settled.
        next: the first that was never leased.
        end: the first that is not committed.
        closed: nothing is leased of it, since its log cannot be read.
        priority: of its records.
    """

    waiting: int
    in_hand: int
    delayed: int
    suspect: int
    dying: int
    floor: int
    next: int
    end: int
    closed: bool
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerStats:
    """One consumer.

    Attributes:
        in_hand, in_hand_bytes: what it holds; bytes roughly.
        leases: in how many leases.
        credit: records it asked for and has not got.
        settled: records since it joined.
        joined: False while it is awaited after a restart of the broker.
        silent: its leases expired, and nothing was heard of it since.
    """

    in_hand: int
    in_hand_bytes: int
    leases: int
    credit: int
    settled: int
    joined: bool
    silent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkStats:
    """One sink. The counts are of records since the sink was made.

    Attributes:
        shards, consumers: each of them.
        paused: nothing is offered until it is resumed.
        settled: acked, dropped, or dead-lettered and stored; by a sink without acks, handed out. What was passed over unseen
            is counted apart: all that is over is settled + filtered + expired + removed + missed, in a sink that was never
            sought back.
        dropped: those of the settled that were dropped.
        filtered: passed over, as they do not match the sink's filter.
        expired: passed over, as their time was over before the user's code had them.
        removed: passed over, as they were taken out of the stream.
        redelivered: leased once more.
        retried: failed in a handler.
        lost: in hand alone when their consumer was lost.
        dead_lettered: stored as dead letters.
        missed: trimmed before they were settled.
        cut_back: given out, and lost by their stream since, as its durability allows.
        late_acks: acked when they were settled already, or void since a seek; of an ordered sink, by a lease that does not
            hold them.
        ignored: acks and other words about records that the consumer does not have.
        notes_unknown: notes of the log that this version does not know.
    """

    name: str
    shards: dict[Shard, ShardStats]
    consumers: dict[str, ConsumerStats]
    paused: bool
    settled: int
    dropped: int
    filtered: int
    expired: int
    removed: int
    redelivered: int
    retried: int
    lost: int
    dead_lettered: int
    missed: int
    cut_back: int
    late_acks: int
    ignored: int
    notes_unknown: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """The first record of a shard that is not settled: it keeps its segment on disk.

    Attributes:
        offset: its place.
        state: where it stands, as `states.py` names it.
        consumer: who has it in hand; None for nobody.
    """

    offset: int
    state: str
    consumer: str | None


def pins(book: Book) -> dict[Shard, Pin]:
    """Of each shard that has a record which is committed and not settled, the first."""
    return {shard: _pin(ledger) for shard, ledger in book.ledgers.items() if ledger.floor < max(ledger.end, ledger.next)}


def _pin(ledger: Ledger) -> Pin:
    holder = ledger.holder(ledger.floor)
    state = ledger.state_of(ledger.floor)
    return Pin(offset=ledger.floor, state=state.value, consumer=None if holder is None else holder.hand.name)


def sink_stats(name: str, book: Book, notes_unknown: int) -> SinkStats:
    """The statistics of a sink as it stands now."""
    counters = book.counters
    return SinkStats(
        name=name,
        shards={shard: _shard_stats(ledger) for shard, ledger in book.ledgers.items()},
        consumers={consumer: _consumer_stats(hand) for consumer, hand in book.hands.items()},
        paused=book.paused,
        settled=counters.settled,
        dropped=counters.dropped,
        filtered=counters.filtered,
        expired=counters.expired,
        removed=counters.removed,
        redelivered=counters.redelivered,
        retried=counters.retried,
        lost=counters.lost,
        dead_lettered=counters.dead_lettered,
        missed=counters.missed,
        cut_back=counters.cut_back,
        late_acks=counters.late_acks,
        ignored=counters.ignored,
        notes_unknown=notes_unknown,
    )


def _shard_stats(ledger: Ledger) -> ShardStats:
    never = ledger.removed.within(ledger.next, ledger.end) if ledger.removed is not None else []
    new = max(ledger.end - ledger.next, 0) - sum(stop - first for first, stop in never)
    return ShardStats(
        waiting=new + ledger.returned.count + ledger.suspects.count,
        in_hand=sum(lease.open.count for lease in ledger.leases.values()),
        delayed=len(ledger.delayed),
        suspect=ledger.suspects.count,
        dying=len(ledger.dying),
        floor=ledger.floor,
        next=ledger.next,
        end=ledger.end,
        closed=ledger.closed,
        priority=ledger.lane,
    )


def _consumer_stats(hand: Hand) -> ConsumerStats:
    return ConsumerStats(
        in_hand=hand.records,
        in_hand_bytes=hand.size,
        leases=len(hand.leases),
        credit=hand.credit,
        settled=hand.settled,
        joined=not hand.returning,
        silent=hand.silent,
    )

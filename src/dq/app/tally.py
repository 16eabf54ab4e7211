"""`Tally`: what became of each record of one sink, counted from the notes of its log. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from dq.core.book import Book
from dq.core.leases import Shard
from dq.core.ledger import Ledger
from dq.core.ranges import Range, RangeSet
from dq.core.replay import replay

_ENDS = ("handled", "dropped", "dead", "postponed", "passed", "earlier")
_UNSEEN = ("skip", "remove", "expire")


class Fates(NamedTuple):
    """What became of the records of one shard, in records.

    Attributes:
        sent: stored in the stream since the sink began there.
        handled, dropped, passed, dead: settled by an ack, by a drop, unseen (other topic, removed, expired), as a dead letter.
        postponed: to be retried after so long that it comes again as a record of its own.
        earlier: settled before the oldest note that is kept: how, is not in the log any more.
        waiting, in_hand, delayed: not settled.
        lost: gone without having been settled.
        twice: handled, and then handled again (the sink was sought back).
        perhaps_twice: handled, after a consumer was lost with them in hand, who may have handled them.
    """

    sent: int
    handled: int
    dropped: int
    passed: int
    dead: int
    postponed: int
    earlier: int
    waiting: int
    in_hand: int
    delayed: int
    lost: int
    twice: int
    perhaps_twice: int


class _Shard:
    """What the notes said of one shard."""

    def __init__(self, start: int, earlier: Iterable[Range] = ()) -> None:
        self.start = start
        self.sets = {end: RangeSet() for end in _ENDS}
        _add(self.sets["earlier"], earlier)
        self.unsure = RangeSet()
        self.perhaps = RangeSet()
        self.twice = self.cut = self.removed = 0


class Tally:
    """Reads the notes of a sink's log, in order; they begin at its last snapshot.

    Args:
        notes: as they stand in the log.

    Raises:
        Damaged: a note cannot follow those before it.
    """

    def __init__(self, notes: Iterable[dict[str, Any]]) -> None:
        self.book = Book()
        self._shards: dict[Shard, _Shard] = {}
        self._uuids: dict[Shard, str] = {}
        for note in notes:
            self._before(note)
            replay(self.book, note)
            self._after(note)

    # --- notes -------------------------------------------------------------------------------------------------------

    def _before(self, note: Mapping[str, Any]) -> None:
        """What must be looked at before the note changes the ledger."""
        ledger = self._ledger(note)
        shard = self._shards.get(_shard_of(note))
        if ledger is None or shard is None:
            return
        if "trim" in note:
            shard.removed += note.get("removed", 0)
        elif "cut" in note:
            shard.cut += max(ledger.next - note["cut"], 0)
            for ranges in (*shard.sets.values(), shard.unsure, shard.perhaps):
                ranges.discard(note["cut"], max(ledger.next, note["cut"] + 1))

    def _after(self, note: Mapping[str, Any]) -> None:
        kind, where = next(iter(note)), _shard_of(note)
        if kind == "snapshot":
            self._shards.clear()
        elif kind == "cursor":
            self._begin(where, note)
        elif kind == "forget":
            self._shards = {shard: kept for shard, kept in self._shards.items() if shard[0] != note["forget"]}
        elif where in self._shards:
            self._settled(self._shards[where], kind, note)

    def _begin(self, where: Shard, note: Mapping[str, Any]) -> None:
        known, uuid = self._shards.get(where), note["uuid"]
        if "next" in note:  # of a snapshot: what was settled before it, is known; how, is not
            self._shards[where] = shard = _Shard(0, [(0, note["cursor"])] if note["cursor"] else [])
            _add(shard.sets["earlier"], [(first, stop) for first, stop in note["settled"]])
        elif known is None or uuid != self._uuids.get(where):
            self._shards[where] = _Shard(note["cursor"])
        else:  # sought: what was handled was handled, and may be again
            known.start = min(known.start, note["cursor"])
        self._uuids[where] = uuid

    def _settled(self, shard: _Shard, kind: str, note: Mapping[str, Any]) -> None:
        if kind == "ack":
            for first, stop in note["ranges"]:
                shard.twice += (stop - first) - shard.sets["handled"].add(first, stop)
                for part in shard.unsure.within(first, stop):
                    shard.perhaps.add(*part)
        elif kind == "drop":
            _add(shard.sets["dropped"], note["ranges"])
        elif kind == "expired":  # found out by the consumer, and not handed to the handler
            _add(shard.sets["passed"], note["ranges"])
        elif kind in _UNSEEN:
            _add(shard.sets["passed"], note[kind])
        elif kind == "deliver":
            shard.sets["handled"].add(note["first"], note["first"] + note["count"])
        elif kind == "intent":
            shard.sets["postponed" if note.get("due") else "dead"].add(note["offset"], note["offset"] + 1)
        elif kind in ("lost", "overdue"):
            shard.unsure.add(note["offset"], note["offset"] + 1)
        elif kind == "suspect":
            _add(shard.unsure, note["ranges"])
        if note.get("without"):
            _add(shard.sets["passed"], note["without"])

    # --- sums --------------------------------------------------------------------------------------------------------

    def fates(self, stream: str, ends: Mapping[int, int], firsts: Mapping[int, int]) -> Fates:
        """What became of the records of a stream.

        Args:
            ends: where the log of each bucket ends.
            firsts: at which record it begins.
        """
        shards, ledgers = self._shards, self.book.ledgers
        found = [
            self._fates_of(shards.get((stream, bucket)), ledgers.get((stream, bucket)), end, firsts.get(bucket, 0))
            for bucket, end in sorted(ends.items())
        ]
        return Fates(*map(sum, zip(*found, strict=True))) if found else Fates(*[0] * len(Fates._fields))

    @staticmethod
    def _fates_of(shard: _Shard | None, ledger: Ledger | None, end: int, first: int) -> Fates:
        if shard is None or ledger is None:  # the sink has not begun there: all waits
            return Fates(**dict.fromkeys(Fates._fields, 0) | {"sent": end - first, "waiting": end - first})
        stop = max(end, ledger.next)
        left = RangeSet(shard.start, stop)
        held = RangeSet.of(part for lease in ledger.leases.values() for part in lease.open)
        delayed = RangeSet.of((offset, offset + 1) for offset in [*ledger.delayed, *ledger.dying])
        waiting = RangeSet.of([*ledger.returned, *ledger.suspects, (ledger.next, stop)])
        # Not settled, and not in the log of the stream any more.
        gone = sum(ranges.discard(0, first) + ranges.discard(end, stop) for ranges in (held, delayed, waiting))
        counts = {"in_hand": _move(held, left), "delayed": _move(delayed, left), "waiting": _move(waiting, left)}
        counts |= {name: _move(shard.sets[name], left) for name in _ENDS}
        removed = min(shard.removed, left.count - gone)  # taken out of the stream before they were trimmed
        counts["passed"] += removed
        return Fates(
            sent=stop - shard.start + shard.cut,
            lost=left.count - removed + shard.cut,  # neither settled nor there
            twice=shard.twice,
            perhaps_twice=shard.perhaps.count,
            **counts,
        )

    def _ledger(self, note: Mapping[str, Any]) -> Ledger | None:
        return self.book.ledgers.get(_shard_of(note))


def _shard_of(note: Mapping[str, Any]) -> Shard:
    return note.get("stream", ""), note.get("bucket", 0)


def _add(to: RangeSet, ranges: Iterable[Iterable[int]]) -> None:
    for first, stop in ranges:
        to.add(first, stop)


def _move(ranges: RangeSet, left: RangeSet) -> int:
    """Takes ranges out of what is left; returns how many records that were."""
    return sum(left.discard(first, stop) for first, stop in ranges)

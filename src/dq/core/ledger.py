"""Where every record of one shard stands for one sink.

::

    0            floor                          next              end
    │ all settled  │ settled · leased · returned  │ never leased    │ not committed
    └──────────────┴─ suspect · delayed · dying ──┴─────────────────┘

Only what is between `floor` and `next` costs memory, by the range where neighbours share their fate; a backlog of
any length costs none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dq.core.leases import Lease, Past, Shard
from dq.core.ranges import Range, RangeSet
from dq.core.states import IllegalStep, State, Step, after
from dq.model.dead_letter import DeadLetter


class Burned(NamedTuple):
    """What is remembered of a record that has burned attempts.

    Attributes:
        attempts: how many.
        error: the last error, "" where there was none.
        deadly: a consumer died of it; it is delivered alone from now on.
    """

    attempts: int
    error: str
    deadly: bool


class Ledger:
    """The state of one sink over one shard.

    Attributes:
        shard, uuid, epoch: which shard, of which making of its stream.
        floor: all below is settled.
        next: the first that was never leased.
        end: the first that is not committed, as far as is known; 0 until it is told.
        settled: what is settled beyond `floor`.
        returned: given back; waits together with its neighbours.
        suspects: waits to be leased alone.
        delayed: waits for its time; seconds it was delayed by.
        dying: intents whose dead letters are not stored yet.
        burned: attempts and errors of the few that have any.
        leases: what is in the hands of consumers.
        removed: taken out of the stream, as far as was told, settled or not; None for nothing. It is not noted: the broker
            tells it anew whenever it opens the stream.
        closed: nothing is leased from it, since its log cannot be read; what is in hand can be settled.
        lane: the priority of its records; higher ones are offered first. Not noted either.
    """

    __slots__ = (
        "burned",
        "closed",
        "delayed",
        "dying",
        "end",
        "epoch",
        "floor",
        "lane",
        "leases",
        "next",
        "removed",
        "returned",
        "settled",
        "shard",
        "suspects",
        "uuid",
    )

    def __init__(self, shard: Shard, start: int, uuid: str, epoch: int) -> None:
        self.shard = shard
        self.uuid = uuid
        self.epoch = epoch
        self.floor = start
        self.next = start
        self.end = 0
        self.settled = RangeSet()
        self.returned = RangeSet()
        self.suspects = RangeSet()
        self.delayed: dict[int, float] = {}
        self.dying: dict[int, DeadLetter] = {}
        self.burned: dict[int, Burned] = {}
        self.leases: dict[int, Lease] = {}
        self.removed: RangeSet | None = None
        self.closed = False
        self.lane = 0

    # --- questions ---------------------------------------------------------------------------------------------------

    def state_of(self, offset: int) -> State:
        """Where a record stands. One that was never leased is WAITING, committed or not."""
        if offset in self.dying:
            return State.DYING
        if offset < self.floor or offset in self.settled:
            return State.SETTLED
        if offset in self.suspects:
            return State.SUSPECT
        if offset in self.delayed:
            return State.DELAYED
        holder = self.holder(offset)
        return holder.state if holder is not None else State.WAITING

    def holder(self, offset: int) -> Lease | None:
        """The lease that has a record in hand."""
        return next((lease for lease in self.leases.values() if offset in lease.open), None)

    def ready(self) -> Range | None:
        """What is to be leased next: what came back before what is new; nothing beyond `end`, and nothing removed."""
        if self.closed:
            return None
        first, stop = self.returned.first() or (self.next, self.end)
        stop = min(stop, self.end)
        if self.removed is not None and (gone := self.removed.first_from(first)) is not None:
            stop = min(stop, gone[0])
        return (first, stop) if first < stop else None

    def suspect(self) -> int | None:
        """The first suspect."""
        lowest = self.suspects.first()
        return lowest[0] if lowest is not None and lowest[0] < self.end and not self.closed else None

    def removed_waiting(self) -> list[Range]:
        """What waits, and was taken out of the stream: in no hand, and not beyond records that were never leased."""
        if self.removed is None:
            return []
        waiting = [*self.returned, *self.suspects, *((offset, offset + 1) for offset in sorted(self.delayed))]
        found = [part for first, stop in waiting for part in self.removed.within(first, stop)]
        ahead = self.removed.first_from(self.next)
        if ahead is not None and ahead[0] == self.next < self.end:
            found.append((self.next, min(ahead[1], self.end)))
        return found

    def removed_unsettled(self, first: int, stop: int) -> int:
        """How many records of a range were taken out of the stream and are neither settled nor dying."""
        gone = RangeSet.of(self.removed.within(max(first, self.floor), stop)) if self.removed is not None else RangeSet()
        for part in self.settled:
            gone.discard(*part)
        for offset in self.dying:
            gone.discard(offset, offset + 1)
        return gone.count

    def attempts(self, offset: int) -> int:
        """Attempts that a record has burned."""
        burned = self.burned.get(offset)
        return burned.attempts if burned else 0

    def came(self, burned: Sequence[Past]) -> list[Past]:
        """Records come that have burned attempts before; of those that have been here, what they burned since counts. Returns
        what of it is new."""
        new = [each for each in burned if any(each[0] + n not in self.burned for n in range(each[1]))]
        for first, count, attempts, error in new:
            for offset in range(first, first + count):
                self.burned.setdefault(offset, Burned(attempts, error, False))
        return new

    def burned_within(self, first: int, stop: int) -> dict[int, Burned]:
        """What is remembered of the records of a range."""
        return {offset: self.burned[offset] for offset in _keys_within(self.burned, first, stop)}

    # --- steps -------------------------------------------------------------------------------------------------------

    def leasable(self, source: State, first: int, stop: int, step: Step = Step.LEASE) -> State:
        """The state in which `step` (LEASE, DELIVER, SKIP) has a range that waits as `source`: WAITING or SUSPECT.

        Raises:
            IllegalStep: not all of the range waits so; nothing has changed.
        """
        place = self.suspects if source is State.SUSPECT else self.returned
        if (first == self.next and source is State.WAITING) or place.covers(first, stop):
            return after(source, step)
        raise IllegalStep(f"{self.shard} [{first}, {stop}) is not {source.value}; nothing was changed")

    def lease(self, lease: Lease, source: State) -> int:
        """Takes the range of a lease from where it waits. Returns how many of it were leased before."""
        self.leases[lease.number] = lease
        return self.take_off(source, lease.first, lease.stop)

    def take_off(self, source: State, first: int, stop: int) -> int:
        """Takes a leasable range from where it waits. Returns how many of it were leased before."""
        if first == self.next and source is State.WAITING:
            self.next = stop
            return 0
        place = self.suspects if source is State.SUSPECT else self.returned
        return place.discard(first, stop)

    def step(self, offset: int, step: Step, lease: Lease | None = None) -> State:
        """One step of one record, as the table has it. Of DELAYED and DYING the caller notes the when and the why.

        Raises:
            IllegalStep: the table does not have it; nothing has changed.
        """
        before = lease.state if lease is not None and offset in lease.open else self.state_of(offset)
        if offset >= self.next:
            raise IllegalStep(f"{self.shard} {offset} was never leased and cannot {step.value}; nothing was changed")
        result = after(before, step)
        if before is State.DYING:
            del self.dying[offset]
        else:
            self.take(offset, offset + 1, lease)
        self.put(result, offset, offset + 1)
        return result

    def ready_now(self, offset: int) -> None:
        """The delay of a record is over."""
        burned = self.burned.get(offset)
        self.step(offset, Step.READY_ALONE if burned is not None and burned.deadly else Step.READY)

    def end_delays(self, first: int, stop: int) -> None:
        """All delays within a range are over."""
        for offset in _keys_within(self.delayed, first, stop):
            self.ready_now(offset)

    def give(self, lease: Lease, step: Step, first: int, stop: int) -> None:
        """The same step for all records of a range that a lease has in hand.

        Raises:
            IllegalStep: the table does not have it; nothing has changed.
        """
        result = after(lease.state, step)
        for part in lease.take(first, stop):
            self.put(result, *part)

    def put(self, state: State, first: int, stop: int) -> None:
        """Puts a range that stands nowhere into its place."""
        if state is State.SETTLED:
            self.settle(first, stop)
        elif state is State.WAITING:
            self.returned.add(first, stop)
        elif state is State.SUSPECT:
            self.suspects.add(first, stop)

    def take(self, first: int, stop: int, lease: Lease | None = None) -> list[Range]:
        """Takes a range from wherever it stands, the hand of `lease` first.

        Returns what was found: not what is settled or dying, and nothing that was never leased. A lease of another
        consumer may be left with nothing open.
        """
        parts: list[Range] = []
        if lease is not None:
            parts = lease.take(first, stop)
            if parts and parts[0] == (first, stop):
                return parts
        for other in self.leases.values():
            parts += other.take(first, stop)
        return list(RangeSet.of(parts + self._take_back(first, stop)))

    def take_waiting(self, first: int, stop: int) -> list[Range]:
        """Takes a range from wherever it stands but from hands; what was never leased too, and `next` moves on.

        Raises:
            IllegalStep: there are records between `next` and the range; nothing has changed.
        """
        if stop > self.next < first:
            raise IllegalStep(f"{self.shard} [{first}, {stop}) lies beyond {self.next}; nothing was changed")
        parts = self._take_back(first, stop)
        if stop > self.next:
            parts.append((self.next, stop))
            self.next = stop
        return list(RangeSet.of(parts))

    def _take_back(self, first: int, stop: int) -> list[Range]:
        """Takes a range from where it came back to from a hand."""
        parts = self.returned.cut(first, stop) + self.suspects.cut(first, stop)
        for offset in _keys_within(self.delayed, first, stop):
            del self.delayed[offset]
            parts.append((offset, offset + 1))
        return parts

    def settle(self, first: int, stop: int) -> None:
        """Notes that a range is settled, and raises the floor if it can be."""
        if self.burned:
            for offset in _keys_within(self.burned, first, stop):
                del self.burned[offset]
        if first <= self.floor and not self.settled:
            # The usual case: settled in order.
            self.floor = max(self.floor, stop)
            return
        self.settled.add(max(first, self.floor), stop)
        lowest = self.settled.first()
        if lowest is not None and lowest[0] == self.floor:
            self.settled.discard(*lowest)
            self.floor = lowest[1]

    def cut_back(self, end: int) -> int:
        """The log lost what was at `end` and beyond; no lease reaches beyond it any more. Returns how many records that were
        leased or settled are gone."""
        gone, past = self.next - end, self.next
        for ranges in (self.settled, self.returned, self.suspects):
            ranges.discard(end, past)
        for offsets in (self.delayed, self.burned, self.dying):
            for offset in _keys_within(offsets, end, past):
                del offsets[offset]
        self.floor, self.next, self.end = min(self.floor, end), end, min(self.end, end)
        return gone

    def trim(self, first: int) -> int:
        """The log begins at `first` now. Returns how many records below it are settled by that alone."""
        if first <= self.floor:
            return 0
        missed = first - self.floor
        missed -= sum(stop - start for start, stop in self.settled.within(self.floor, first))
        missed -= len(_keys_within(self.dying, self.floor, first))
        self.take(self.floor, first)
        if self.removed is not None:
            self.removed.discard(0, first)
        self.next = max(self.next, first)
        self.end = max(self.end, first)
        self.settle(self.floor, first)
        return missed


def _keys_within(entries: Mapping[int, Any], first: int, stop: int) -> list[int]:
    """The keys in a range, in order; the shorter of the two is walked."""
    if stop - first < len(entries):
        return [offset for offset in range(first, stop) if offset in entries]
    return sorted(offset for offset in entries if first <= offset < stop)

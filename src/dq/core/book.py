"""All that a sink's log remembers, and the moves that change it: each is noted, and replaying its note does it again.

What is known only while the broker lives (credit, deadlines, who waits for work) is in `sink.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf
from typing import Any

from dq.core.counters import Counters
from dq.core.leases import Hand, Lease, Own, Past, Shard
from dq.core.ledger import Burned, Ledger
from dq.core.notes import Notebook, lease_note, letter_note, release_note
from dq.core.ranges import Range, RangeSet
from dq.core.states import State, Step
from dq.model.dead_letter import DeadLetter

Group = dict[Shard, RangeSet]
"""Records that were in one hand when its consumer was lost, as far as nothing is known of them yet."""

LEASES_UNFLUSHED_MAX = 1 << 20
"""Numbers of leases that are left out at a start. The notes of the last second may be lost with a failed flush, and a consumer
that lives on still speaks of the leases in them: their numbers must not mean others."""
ENDED_LEASES_MAX = 10_000
"""Leases that ended with records unsettled and are remembered for late acks; the oldest goes first. 4 MB at most."""


class Book:
    """The lasting state of one sink.

    Attributes:
        ledgers: by shard.
        leases: by number.
        ended: leases that ended with records unsettled: a late ack of theirs counts.
        hands: by consumer id.
        groups: of suspects, by number.
        intents: not stored yet, by (lane, intent).
        paused: nothing is offered.
        counters: see `Counters`.
    """

    def __init__(self) -> None:
        self.notes = Notebook()
        self.ledgers: dict[Shard, Ledger] = {}
        self.leases: dict[int, Lease] = {}
        self.ended: dict[int, Lease] = {}
        self.hands: dict[str, Hand] = {}
        self.groups: dict[int, Group] = {}
        self.intents: dict[tuple[str, int], DeadLetter] = {}
        self.paused = False
        self.next_lease = 0
        self.next_group = 0
        self.next_intents: dict[str, int] = {}
        self.counters = Counters()

    def hand(self, consumer: str) -> Hand:
        """The hand of a consumer, made if need be."""
        hand = self.hands.get(consumer)
        if hand is None:
            hand = self.hands[consumer] = Hand(consumer)
        return hand

    def start(self, next_lease: int) -> None:
        """A broker starts, and numbers its leases on from there."""
        self.next_lease = next_lease
        self.notes.add({"start": next_lease})

    # --- whole shards ------------------------------------------------------------------------------------------------

    def cursor(self, shard: Shard, start: int, uuid: str, epoch: int) -> Ledger:
        """Begins a shard at `start`. What was known of another stream of that name is forgotten, but for its intents:
        their numbers are the sequence of what is published, and a gap in it would be an error."""
        old = self.ledgers.get(shard)
        if old is not None:
            self._void(old)
        ledger = self.ledgers[shard] = Ledger(shard, start, uuid, epoch)
        self.notes.add({"cursor": start, "stream": shard[0], "bucket": shard[1], "uuid": uuid, "epoch": epoch})
        return ledger

    def forget_stream(self, stream: str) -> None:
        """The sink is over a stream no more. Its intents stand, as strays, for the same reason."""
        for ledger in [ledger for shard, ledger in self.ledgers.items() if shard[0] == stream]:
            self._void(ledger)
            del self.ledgers[ledger.shard]
        self.notes.add({"forget": stream})

    def pause(self, paused: bool) -> None:
        """Offers nothing from now on, or does again."""
        self.paused = paused
        self.notes.add({"paused": paused})

    def raise_epoch(self, ledger: Ledger, epoch: int) -> None:
        """The stream was started uncleanly once more."""
        ledger.epoch = epoch
        self.notes.add({"epoch": epoch, "stream": ledger.shard[0], "bucket": ledger.shard[1]})

    def cut_back(self, ledger: Ledger, end: int) -> int:
        """A shard lost what was at `end` and beyond, and other records will stand there: of those that did, nothing is to be
        known. Returns how many there were."""
        if ledger.next <= end:
            return 0
        shard = ledger.shard
        self.forget_members(shard, end, ledger.next)
        for lease in [lease for lease in ledger.leases.values() if lease.stop > end]:
            lease.take(end, lease.stop)
            for part in lease.take(lease.first, end):
                ledger.put(State.WAITING, *part)
            del self.leases[lease.number], ledger.leases[lease.number]
            lease.end()  # and is not remembered: a late ack would be of the records that stand there next
        self.ended = {number: ended for number, ended in self.ended.items() if ended.shard != shard or ended.stop <= end}
        gone = ledger.cut_back(end)
        self.counters.cut_back += gone
        self.notes.add({"cut": end, "stream": shard[0], "bucket": shard[1]})
        return gone

    def trim(self, ledger: Ledger, first: int, removed: int) -> int:
        """The log of a shard begins at `first` now, and `removed` of what was not settled below had been taken out of the
        stream. Returns how many records were missed."""
        if first <= ledger.floor:
            return 0
        self.forget_members(ledger.shard, 0, first)
        missed = max(ledger.trim(first) - removed, 0)
        self._close_empty(ledger)
        self.counters.missed += missed
        self.counters.removed += removed
        note = {"trim": first, "stream": ledger.shard[0], "bucket": ledger.shard[1]}
        self.notes.add(note | ({"removed": removed} if removed else {}))
        return missed

    # --- ranges ------------------------------------------------------------------------------------------------------

    def lease(
        self,
        hand: Hand,
        ledger: Ledger,
        source: State,
        first: int,
        stop: int,
        size: int,
        without: list[Range] | None = None,
        burned: Sequence[Past] = (),
    ) -> Lease:
        """Leases a range that waits as `source`; what is in `without`, parts of it, is passed over in the same step; `burned`
        is what records of it have burned before they came here.

        Raises:
            IllegalStep: it does not wait so; nothing has changed.
        """
        state = ledger.leasable(source, first, stop)
        number = self.next_lease
        self.next_lease = number + 1
        lease = self.leases[number] = Lease(number, hand, ledger.shard, first, stop, size, state)
        again = ledger.lease(lease, source)
        note = lease_note("lease", lease)
        if source is State.SUSPECT:
            note["alone"] = True
        if without:
            passed = self._leave_out(ledger, without)
            again -= min(again, passed)  # it is new or given back as a whole
            lease.leave_out(without)
            note["without"] = without
        if burned and (new := ledger.came(burned)):
            note["burned"] = new
        self.counters.redelivered += again
        self.notes.add(note)
        return lease

    def deliver(self, hand: Hand, ledger: Ledger, first: int, stop: int, without: list[Range] | None = None) -> int:
        """As `lease`, for a sink without acks: the records are settled as they go. Returns the number of the lease.

        Raises:
            IllegalStep: they do not wait; nothing has changed.
        """
        ledger.leasable(State.WAITING, first, stop, Step.DELIVER)
        number = self.next_lease
        self.next_lease = number + 1
        ledger.take_off(State.WAITING, first, stop)
        passed = self._leave_out(ledger, without) if without else 0
        ledger.settle(first, stop)
        self.counters.settled += stop - first - passed
        stream, bucket = ledger.shard
        note = {"deliver": number, "stream": stream, "bucket": bucket, "first": first, "count": stop - first, "to": hand.name}
        self.notes.add(note | ({"pid": hand.pid} if hand.pid else {}) | ({"without": without} if without else {}))
        return number

    def pass_over(self, kind: str, ledger: Ledger, ranges: Iterable[Range]) -> int:
        """Settles unseen what of `ranges` is in no hand. `kind` says why: "skip", it does not match; "expire", its time
        is over; "remove", it was taken out of the stream. Returns how many that were.

        Raises:
            IllegalStep: one lies beyond records that were never leased.
        """
        done: list[Range] = []
        for first, stop in ranges:
            for part in ledger.take_waiting(first, stop):
                self._settle_unseen(ledger, *part)
                done.append(part)
        count = sum([stop - first for first, stop in done])
        if count:
            if kind == "skip":
                self.counters.filtered += count
            elif kind == "expire":
                self.counters.expired += count
            else:
                self.counters.removed += count
            self.notes.add({kind: done, "stream": ledger.shard[0], "bucket": ledger.shard[1]})
        return count

    def settle(self, kind: str, number: int, ledger: Ledger, lease: Lease | None, ranges: Iterable[Range]) -> int:
        """Settles what is not settled of `ranges`, wherever it stands. Returns how many that were."""
        done: list[Range] = []
        count = 0
        held = lease.open.count if lease is not None else 0
        for first, stop in ranges:
            for part in ledger.take(first, stop, lease):
                ledger.settle(part[0], part[1])
                if self.groups:
                    self.forget_members(ledger.shard, part[0], part[1])
                done.append(part)
                count += part[1] - part[0]
        if not count:
            return 0
        if kind == "expired":
            self.counters.expired += count
        else:
            self.counters.settled += count
        if kind == "drop":
            self.counters.dropped += count
        if lease is None or held - lease.open.count != count:
            self._close_empty(ledger)  # some were taken out of other hands, or may have been
        elif not lease.open:
            self._close(ledger, lease)
        stream, bucket = ledger.shard
        self.notes.add({kind: number, "stream": stream, "bucket": bucket, "ranges": done})
        return count

    def release(self, ledger: Ledger, lease: Lease, ranges: list[Range], why: str = "") -> None:
        """What a consumer holds of a lease comes back, no attempt burned. `why`: see `notes.py`; "": it gave it back."""
        self._give(ledger, lease, Step.RELEASE, ranges)
        self.notes.add(release_note(lease, ranges, why))

    def suspect(self, group: int, ledger: Ledger, lease: Lease, ranges: list[Range], error: str) -> None:
        """A consumer was lost with several records in hand, these among them."""
        self.next_group = max(self.next_group, group + 1)
        members = self.groups.setdefault(group, {}).setdefault(ledger.shard, RangeSet())
        for part in ranges:
            members.add(*part)
        self._give(ledger, lease, Step.SUSPECT, ranges)
        stream, bucket = ledger.shard
        note = {"suspect": group, "lease": lease.number, "stream": stream, "bucket": bucket, "ranges": ranges}
        self.notes.add(note | {"error": error})

    def clear(self, group: int) -> None:
        """The culprit of a group is known: the rest of it waits as if nothing had been."""
        for shard, members in self.groups.pop(group).items():
            ledger = self.ledgers[shard]
            for first, stop in members:
                for part in ledger.suspects.cut(first, stop):
                    ledger.put(State.WAITING, *part)
        self.notes.add({"cleared": group})

    # --- single records ----------------------------------------------------------------------------------------------

    def retry(self, ledger: Ledger, lease: Lease, offset: int, delay: float, error: str, *, deadly: bool) -> None:
        """A record failed and waits for its time."""
        ledger.step(offset, Step.RETRY, lease)
        ledger.delayed[offset] = delay
        self.counters.retried += 1
        self._burn("retry", ledger, lease, offset, error, deadly, {"after": delay} | ({"deadly": True} if deadly else {}))

    def overdue(self, ledger: Ledger, lease: Lease, offset: int, error: str) -> None:
        """A record passed a deadline of its own; its consumer lives on."""
        ledger.step(offset, Step.OVERDUE, lease)
        self._burn("overdue", ledger, lease, offset, error, False, {})

    def lose(self, ledger: Ledger, lease: Lease, offset: int, error: str) -> None:
        """A consumer was lost with this record alone in hand."""
        ledger.step(offset, Step.LOSE, lease)
        self.counters.lost += 1
        self._burn("lost", ledger, lease, offset, error, True, {})

    def abandon(self, lease: Lease, offset: int) -> None:
        """A client left a record of a lease unsettled: it has a deadline of its own, to be set by the caller."""
        lease.own = {**(lease.own or {}), offset: Own(inf, left=True)}
        self.notes.add({"abandon": lease.number, "offset": offset})

    def intend(self, ledger: Ledger, lease: Lease | None, letter: DeadLetter) -> None:
        """Writes the intent to dead-letter a record."""
        ledger.step(letter.offset, Step.DEAD_LETTER, lease)
        self.enter_intent(ledger, letter)
        self.forget_members(ledger.shard, letter.offset, letter.offset + 1)
        if lease is not None:
            self._close(ledger, lease)
        self.notes.add(letter_note("intent", letter))

    def enter_intent(self, ledger: Ledger | None, letter: DeadLetter) -> None:
        """Keeps an intent until its dead letter is stored."""
        if ledger is not None:
            ledger.dying[letter.offset] = letter
        self.intents[letter.lane, letter.intent] = letter
        self.next_intents[letter.lane] = max(self.next_intents.get(letter.lane, 0), letter.intent + 1)

    def is_stray(self, letter: DeadLetter) -> bool:
        """Whether an intent stands, but its shard was cut back or made anew since: none of its records is meant."""
        ledger = self.ledgers.get((letter.stream, letter.bucket))
        return ledger is None or ledger.dying.get(letter.offset) is not letter

    def stored(self, lane: str, intent: int) -> bool:
        """The dead letter of an intent is committed. Returns False if that was known."""
        letter = self.intents.pop((lane, intent), None)
        if letter is None:
            return False
        if not self.is_stray(letter):
            self.ledgers[letter.stream, letter.bucket].step(letter.offset, Step.STORED)
            self.counters.settled += 1
        if letter.due:
            self.counters.retried += 1
        else:
            self.counters.dead_lettered += 1
        self.notes.add({"stored": intent, "stream": lane})
        return True

    # --- within ------------------------------------------------------------------------------------------------------

    def _void(self, ledger: Ledger) -> None:
        """Of what was known of a shard, nothing counts any more: no group has members of it, and its leases never were."""
        shard = ledger.shard
        self.forget_members(shard, 0, ledger.next)
        for lease in list(ledger.leases.values()):
            lease.take(lease.first, lease.stop)
            self._close(ledger, lease)
        self.ended = {number: lease for number, lease in self.ended.items() if lease.shard != shard}

    def _leave_out(self, ledger: Ledger, without: list[Range]) -> int:
        """Settles parts of a range that is being leased. Returns how many records they have."""
        for part in without:
            self._settle_unseen(ledger, *part)
        self.counters.filtered += (count := sum([stop - first for first, stop in without]))
        return count

    def _settle_unseen(self, ledger: Ledger, first: int, stop: int) -> None:
        ledger.settle(first, stop)
        if self.groups:
            self.forget_members(ledger.shard, first, stop)

    def group_of(self, shard: Shard, offset: int) -> int | None:
        """The number of the group that a record is in."""
        for number, group in self.groups.items():
            if shard in group and offset in group[shard]:
                return number
        return None

    def forget_members(self, shard: Shard, first: int, stop: int) -> None:
        """What became of a range is known: it belongs to no group any more."""
        for number, group in list(self.groups.items()):
            if shard in group and group[shard].discard(first, stop) and not group[shard]:
                del group[shard]
                if not group:
                    del self.groups[number]

    def _burn(
        self, kind: str, ledger: Ledger, lease: Lease, offset: int, error: str, deadly: bool, more: dict[str, Any]
    ) -> None:
        """What all steps that burn an attempt have in common, after the step itself."""
        burned = ledger.burned.get(offset)
        attempts = burned.attempts + 1 if burned else 1
        ledger.burned[offset] = Burned(attempts, error, deadly or (burned is not None and burned.deadly))
        self.forget_members(ledger.shard, offset, offset + 1)
        self._close(ledger, lease)
        stream, bucket = ledger.shard
        note = {kind: lease.number, "stream": stream, "bucket": bucket, "offset": offset, "attempts": attempts}
        self.notes.add({**note, **more, "error": error})

    def _give(self, ledger: Ledger, lease: Lease, step: Step, ranges: list[Range]) -> None:
        for first, stop in ranges:
            ledger.give(lease, step, first, stop)
        self._close(ledger, lease)

    def _close(self, ledger: Ledger, lease: Lease) -> None:
        """Ends a lease of which nothing is open. It is remembered unless all of it is settled."""
        if lease.open or self.leases.pop(lease.number, None) is None:
            return
        del ledger.leases[lease.number]
        lease.end()
        if lease.stop <= ledger.floor or ledger.settled.covers(max(lease.first, ledger.floor), lease.stop):
            return
        self.ended[lease.number] = lease
        while len(self.ended) > ENDED_LEASES_MAX or self._over(next(iter(self.ended.values()))):
            del self.ended[next(iter(self.ended))]

    def _over(self, lease: Lease) -> bool:
        return lease.stop <= self.ledgers[lease.shard].floor

    def _close_empty(self, ledger: Ledger) -> None:
        """After records were taken out of whatever hands they were in."""
        for lease in [lease for lease in ledger.leases.values() if not lease.open]:
            self._close(ledger, lease)

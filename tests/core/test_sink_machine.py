"""`SinkCore` against a plain dict of records, step by step, over restarts at any point.

The model knows one thing a record (where it is, attempts burned) and no ranges, heaps or notes. What it does not say is
which consumer is offered what; there it holds the rules that any choice has to keep.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import orjson
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dq.core.sink import SinkCore
from dq.core.states import State
from dq.model.settings import SinkSettings

SHARDS = [("emails", 0), ("emails", 1)]
CONSUMERS = ["a", "b", "c"]
GRACE, RECONNECT, ATTEMPTS_MAX = 20.0, 5.0, 3
Record = tuple[str, int, int]
IN_HAND = (State.LEASED, State.ISOLATED)


@dataclass
class ModelLease:
    number: int
    consumer: str
    shard: tuple[str, int]
    first: int
    stop: int
    deadline: float
    own: dict[int, float] = field(default_factory=dict)
    left: set[int] = field(default_factory=set)


class SinkMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self):
        self.now = 1_000.0
        self.log: list[bytes] = []
        self.ends = dict.fromkeys(SHARDS, 0)
        self.first = dict.fromkeys(SHARDS, 0)
        self.where: dict[Record, tuple[State, int | None]] = {}
        self.attempts: dict[Record, int] = {}
        self.group: dict[Record, int] = {}
        self.groups = 0
        self.deadly: set[Record] = set()
        self.delay: dict[Record, tuple[float, float]] = {}  # until, after
        self.was_delayed: dict[Record, float] = {}  # the end of a delay is not noted
        self.leases: dict[int, ModelLease] = {}
        self.credit: dict[str, int] = {}
        self.returning: dict[str, float] = {}
        self.core = self.new_core()
        self.open()
        for shard in SHARDS:
            self.commit(shard, 10)
        for consumer in CONSUMERS:
            self.join_or_grant(consumer, 10)

    def new_core(self):
        settings = SinkSettings(ack_grace=GRACE, max_attempts=ATTEMPTS_MAX)
        return SinkCore("mailers", settings, jitter=Random(1))

    def open(self):
        for shard, end in self.ends.items():
            self.core.add_shard(shard, 0, "uuid-1", 1)
            self.core.committed(shard, end)

    # --- the model -------------------------------------------------------------------------------------------------------

    def held(self, consumer, lease=None):
        """Records in a hand, in order."""
        return sorted(
            record
            for record, (state, number) in self.where.items()
            if state in IN_HAND and self.leases[number].consumer == consumer and lease in (None, number)
        )

    def put(self, record, state, lease=None):
        self.where[record] = (state, lease)
        self.delay.pop(record, None)
        self.was_delayed.pop(record, None)
        if state in (State.SETTLED, State.DYING, State.DELAYED):
            self.group.pop(record, None)
        if lease is None:
            for each in self.leases.values():
                if (*each.shard, record[2]) == record:
                    each.own.pop(record[2], None)
                    each.left.discard(record[2])

    def give_back(self, record):
        self.put(record, State.SUSPECT if self.where[record][0] is State.ISOLATED else State.WAITING)

    def burn(self, record, state):
        self.group.pop(record, None)
        self.attempts[record] = self.attempts.get(record, 0) + 1
        self.put(record, State.DYING if self.attempts[record] >= ATTEMPTS_MAX else state)

    def lose(self, consumer, lost):
        if len(self.held(consumer)) == 1 and lost:
            [record] = lost
            group = self.group.get(record)
            self.burn(record, State.SUSPECT)
            self.deadly.add(record)
            if group is not None:
                for other in [other for other, number in self.group.items() if number == group]:
                    del self.group[other]
                    if self.where[other][0] is State.SUSPECT:
                        self.put(other, State.WAITING)
        elif lost:
            self.groups += 1
            for record in lost:
                self.put(record, State.SUSPECT)
                self.group[record] = self.groups

    def heard(self, consumer, lease):
        lease.deadline = self.now + GRACE

    def expire(self):
        for consumer, until in list(self.returning.items()):
            if until <= self.now:
                for record in self.held(consumer):
                    self.give_back(record)
                del self.returning[consumer]
        for consumer in self.credit:
            over = [lease for lease in self.leases.values() if lease.consumer == consumer and lease.deadline <= self.now]
            lost = [record for lease in over for record in self.held(consumer, lease.number) if record[2] not in lease.own]
            self.lose(consumer, lost)
        for lease in self.leases.values():
            for offset, until in list(lease.own.items()):
                record = (*lease.shard, offset)
                if until <= self.now and lease.consumer not in self.returning:
                    self.burn(record, State.SUSPECT if self.where[record][0] is State.ISOLATED else State.WAITING)
        for record, (until, after) in list(self.delay.items()):
            if until <= self.now:
                self.put(record, State.SUSPECT if record in self.deadly else State.WAITING)
                self.was_delayed[record] = after

    def consumers(self):
        return sorted(self.credit)

    def draw_lease(self, data, *, open_only):
        numbers = [
            number
            for number, lease in self.leases.items()
            if lease.consumer not in self.returning
            and lease.consumer in self.credit
            and (not open_only or self.held(lease.consumer, number))
        ]
        return self.leases[data.draw(st.sampled_from(numbers), "lease")] if numbers else None

    # --- the world -------------------------------------------------------------------------------------------------------

    def tick(self):
        self.now += 0.001

    def commit(self, shard, count):
        for offset in range(self.ends[shard], self.ends[shard] + count):
            self.where[*shard, offset] = (State.WAITING, None)
        self.ends[shard] += count
        self.core.committed(shard, self.ends[shard])

    def join_or_grant(self, consumer, credit):
        self.tick()
        if consumer in self.returning:
            return
        if consumer not in self.credit:
            self.core.join(consumer, self.now)
            self.credit[consumer] = 0
        self.core.grant(consumer, credit)
        self.credit[consumer] += credit

    @rule(
        commits=st.lists(st.tuples(st.sampled_from(SHARDS), st.integers(1, 8)), max_size=2),
        grants=st.lists(st.tuples(st.sampled_from(CONSUMERS), st.integers(1, 8)), max_size=3),
        counts=st.lists(st.integers(1, 8), min_size=1, max_size=6),
    )
    def lease(self, commits, grants, counts):
        for shard, count in commits:
            self.commit(shard, count)
        for consumer, credit in grants:
            self.join_or_grant(consumer, credit)
        for count_max in counts:
            self.tick()
            offer = self.core.offer()
            self.check_liveness(offer)
            if offer is None:
                return
            self.check_offer(offer)
            count = min(count_max, offer.count_max)
            number = self.core.lease(offer, count, count * 100, self.now)
            assert number not in self.leases
            stop = offer.first + count
            lease = ModelLease(number, offer.consumer, offer.shard, offer.first, stop, self.now + GRACE)
            self.leases[number] = lease
            self.credit[offer.consumer] -= count
            for offset in range(offer.first, stop):
                self.put((*offer.shard, offset), State.ISOLATED if offer.alone else State.LEASED, number)

    def check_offer(self, offer):
        records = [(*offer.shard, offset) for offset in range(offer.first, offer.first + offer.count_max)]
        expected = State.SUSPECT if offer.alone else State.WAITING
        assert {self.where[record][0] for record in records} == {expected}
        assert 1 <= offer.count_max <= self.credit[offer.consumer]
        held = self.held(offer.consumer)
        assert not any(self.where[record][0] is State.ISOLATED for record in held)
        if offer.alone:
            assert held == []
            assert offer.count_max == 1
            shard = [record for record in self.waiting(State.SUSPECT) if record[:2] == offer.shard]
            assert records == [min(shard)], "suspects go in order"
        burned = {record[2]: self.attempts[record] for record in records if self.attempts.get(record)}
        assert (offer.attempts or {}) == burned

    def waiting(self, state):
        return [record for record, (where, _) in self.where.items() if where is state]

    def check_liveness(self, offer):
        stats = self.core.stats().consumers
        idle = [
            consumer
            for consumer in self.credit
            if self.credit[consumer]
            and not stats[consumer].silent
            and not any(self.where[record][0] is State.ISOLATED for record in self.held(consumer))
        ]
        if self.waiting(State.SUSPECT):
            assert bool(offer and offer.alone) == any(not self.held(consumer) for consumer in idle)
            if len(idle) > 1 and self.waiting(State.WAITING):
                assert offer is not None, "one consumer drains, the others go on"
        else:
            assert (offer is not None) == bool(idle and self.waiting(State.WAITING))

    @precondition(lambda self: self.leases and self.credit)
    @rule(data=st.data(), drop=st.booleans(), whole=st.booleans(), late=st.booleans())
    def ack(self, data, drop, whole, late):
        """Of any lease there ever was: full, partial, late, double, and beyond it."""
        self.tick()
        lease = self.draw_lease(data, open_only=not late)
        if lease is None:
            return
        edge = st.integers(lease.first - 1, lease.stop + 1)
        ranges = [(lease.first, lease.stop)] if whole else data.draw(st.lists(st.tuples(edge, edge), max_size=3), "ranges")
        named = {offset for first, stop in ranges for offset in range(first, stop)}
        records = [(*lease.shard, offset) for offset in named if lease.first <= offset < lease.stop]
        settles = [record for record in records if self.where[record][0] not in (State.SETTLED, State.DYING)]
        act = self.core.drop if drop else self.core.ack
        assert act(lease.consumer, lease.number, ranges, self.now) == len(settles)
        for record in settles:
            self.put(record, State.SETTLED)
        self.heard(lease.consumer, lease)

    @precondition(lambda self: any(self.held(consumer) for consumer in self.credit))
    @rule(
        data=st.data(),
        fates=st.lists(
            st.sampled_from(["retry", "retry", "dead letter", "release", "extend", "abandon"]), min_size=1, max_size=4
        ),
        wrong=st.sampled_from([False, False, False, True]),
    )
    def speak_of_some(self, data, fates, wrong):
        for fate in fates:
            self.speak_of_one(data, fate, wrong)

    def speak_of_one(self, data, fate, wrong):
        self.tick()
        lease = self.draw_lease(data, open_only=not wrong)
        if lease is None:
            return
        held = [record[2] for record in self.held(lease.consumer, lease.number)]
        offset = data.draw(st.integers(lease.first, lease.stop - 1) if wrong else st.sampled_from(held), "offset")
        record, words = (*lease.shard, offset), (lease.consumer, lease.number)
        in_hand = self.where[record] in [(state, lease.number) for state in IN_HAND]
        self.heard(lease.consumer, lease)
        if fate == "retry":
            after = data.draw(st.sampled_from([0.0, 1.0, 12.0]), "after")
            self.core.retry(*words, offset, after, "boom", self.now)
            if in_hand:
                self.burn(record, State.DELAYED)
                if self.where[record][0] is State.DELAYED:
                    self.delay[record] = (self.now + after, after)
        elif fate == "dead letter":
            self.core.dead_letter(*words, offset, "bad", "", self.now)
            if in_hand:
                self.put(record, State.DYING)
        elif fate == "release":
            self.core.release(*words, [(offset, offset + 1)], self.now)
            if in_hand:
                self.give_back(record)
        elif fate == "extend":
            seconds = data.draw(st.sampled_from([2.5, 33.5]), "seconds")
            self.core.extend(*words, offset, seconds, self.now)
            if in_hand:
                lease.own[offset] = self.now + seconds
        else:
            self.core.abandon(*words, offset, self.now)
            if in_hand:
                lease.own[offset] = max(self.now + GRACE, lease.own.get(offset, 0.0))  # more time it asked for is kept
                lease.left.add(offset)
                self.renew_all()  # else the lease would be due in the very same moment

    @precondition(lambda self: self.leases)
    @rule()
    def renew_all(self):
        self.tick()
        for consumer in self.credit:
            numbers = [number for number, lease in self.leases.items() if lease.consumer == consumer]
            self.core.renew(consumer, numbers, self.now)
            for number in numbers:
                self.heard(consumer, self.leases[number])

    @precondition(lambda self: any(self.held(consumer) for consumer in self.credit))
    @rule(data=st.data(), ordered=st.booleans())
    def go(self, data, ordered):
        self.tick()
        consumer = data.draw(st.sampled_from(self.consumers()), "consumer")
        if ordered:
            self.core.leave(consumer, self.now)
            for record in self.held(consumer):
                self.give_back(record)
        else:
            self.core.died(consumer, self.now)
            self.lose(consumer, self.held(consumer))
        del self.credit[consumer]

    @rule(seconds=st.sampled_from([0.5, 3.0, 8.0, 25.0]))
    def advance(self, seconds):
        target = self.now + seconds
        while (due := self.core.next_deadline()) is not None and due <= target:
            self.now = max(due, self.now)
            self.core.expire(self.now)
            self.expire()
        self.now = target
        assert self.core.expire(self.now) == 0

    @precondition(lambda self: len(self.leases) % 4 == 3)  # now and then: it settles what others could try
    @rule(shard=st.sampled_from(SHARDS), by=st.integers(0, 4))
    def trim(self, shard, by):
        first = min(self.core.floors()[shard] + by, self.ends[shard])
        missed = [
            (*shard, offset) for offset in range(first) if self.where[*shard, offset][0] not in (State.SETTLED, State.DYING)
        ]
        assert self.core.trimmed(shard, first) == len(missed)
        self.first[shard] = max(self.first[shard], first)
        for record in missed:
            self.put(record, State.SETTLED)

    @precondition(lambda self: self.waiting(State.DYING))
    @rule(data=st.data())
    def store_a_dead_letter(self, data):
        letters = self.core.dead_letters()
        assert {(letter.stream, letter.bucket, letter.offset) for letter in letters} == set(self.waiting(State.DYING))
        letter = data.draw(st.sampled_from(letters), "letter")
        self.core.dead_letter_stored(letter.stream, letter.intent)
        self.put((letter.stream, letter.bucket, letter.offset), State.SETTLED)

    # --- restarts --------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), snapshot=st.booleans())
    def restart(self, data, snapshot):
        self.tick()
        self.log += self.core.take_notes()
        if snapshot:
            self.log = self.core.snapshot()
            self.was_delayed.clear()
        old, self.core = self.core, self.new_core()
        for line in self.log:
            self.core.replay(orjson.loads(line))
        assert self.lasting(self.core) == self.lasting(old)
        self.core.recover(self.now)
        assert self.core.take_new_intents() == old.dead_letters()
        self.open()
        for record, after in list(self.was_delayed.items()):
            self.where[record] = (State.DELAYED, None)
            self.delay[record] = (0.0, after)
        self.was_delayed.clear()
        self.delay = {record: (self.now + after, after) for record, (_, after) in self.delay.items()}
        self.credit = {}
        self.returning = {consumer: self.now + RECONNECT for consumer in CONSUMERS if self.held(consumer)}
        for lease in self.leases.values():
            lease.own = {}
        for consumer in list(self.returning):
            if data.draw(st.sampled_from([True, True, False]), "returns"):
                self.resume(data, consumer)

    def lasting(self, core):
        """What replay must rebuild. Late acks change nothing, so they are not noted; nor is the end of a delay."""
        notes = [orjson.loads(line) for line in core.snapshot()]
        del notes[0]["counters"]["late_acks"], notes[0]["counters"]["ignored"]
        for note in notes:
            if "cursor" in note:
                delayed = [offset for offset, _ in note.pop("delayed")]
                ranges = note.pop("returned") + note.pop("suspects")
                note["back"] = sorted(delayed + [offset for first, stop in ranges for offset in range(first, stop)])
        return notes

    def resume(self, data, consumer):
        numbers = sorted({self.where[record][1] for record in self.held(consumer)})
        keeps = [number for number in numbers if data.draw(st.sampled_from([True, True, False]), "keeps")]
        assert self.core.resume(consumer, [*keeps, 10_000], self.now) == keeps
        del self.returning[consumer]
        self.credit[consumer] = 0
        for number in numbers:
            lease = self.leases[number]
            if number in keeps:
                lease.own = dict.fromkeys(lease.left, self.now + GRACE)
                self.heard(consumer, lease)
            else:
                for record in self.held(consumer, number):
                    self.give_back(record)
        self.renew_all()

    # --- what must always hold -------------------------------------------------------------------------------------------

    @invariant()
    def every_record_is_where_the_model_says(self):
        ledgers = self.core._book.ledgers
        for (stream, bucket, offset), (state, number) in self.where.items():
            ledger = ledgers[stream, bucket]
            assert ledger.state_of(offset) is state, (stream, bucket, offset)
            if number is not None:
                assert offset in ledger.leases[number].open

    @invariant()
    def every_record_is_in_one_place_alone(self):
        for shard, ledger in self.core._book.ledgers.items():
            places = [ledger.settled, ledger.returned, ledger.suspects, *(each.open for each in ledger.leases.values())]
            found = [offset for place in places for first, stop in place for offset in range(first, stop)]
            found += list(ledger.delayed) + [offset for offset in ledger.dying if offset >= ledger.floor]
            assert sorted(found) == list(range(ledger.floor, ledger.next)), shard

    @invariant()
    def the_floor_is_the_first_that_is_not_settled(self):
        for shard, floor in self.core.floors().items():
            unsettled = [
                record[2]
                for record, (state, _) in self.where.items()
                if record[:2] == shard and state is not State.SETTLED and record[2] >= self.first[shard]
            ]
            assert floor == min(unsettled, default=self.ends[shard])

    @invariant()
    def hands_are_what_the_model_says(self):
        stats = self.core.stats().consumers
        assert set(stats) == set(self.credit) | set(self.returning)
        for consumer, stat in stats.items():
            held = self.held(consumer)
            assert stat.in_hand == len(held)
            assert stat.in_hand_bytes == 100 * len(held)
            assert stat.leases == len({self.where[record][1] for record in held})
            assert stat.credit == self.credit.get(consumer, 0)
            assert stat.joined == (consumer in self.credit)

    @invariant()
    def memory_is_bounded_by_what_is_in_hand(self):
        delayed = sum(len(ledger.delayed) for ledger in self.core._book.ledgers.values())
        assert len(self.core._deadlines) <= len(self.core._book.hands) + delayed + len(self.returning) + 100
        assert all(lease.open for lease in self.core._book.leases.values())
        groups = self.core._book.groups.values()
        members = [
            (*shard, offset)
            for group in groups
            for shard, ranges in group.items()
            for part in ranges
            for offset in range(*part)
        ]
        assert sorted(members) == sorted(self.group)

    def teardown(self):
        """Whatever happened: in the end each record is settled, and none is delivered that was settled before."""
        if not hasattr(self, "core"):
            return
        for consumer in self.consumers():
            self.core.leave(consumer, self.now)
        self.core.join("last", self.now)
        for _ in range(300):
            self.now += 100
            self.core.expire(self.now)
            self.core.grant("last", 50)
            while (offer := self.core.offer()) is not None:
                for offset in range(offer.first, offer.first + offer.count_max):
                    assert self.where[*offer.shard, offset][0] not in (State.SETTLED, State.DYING)
                number = self.core.lease(offer, offer.count_max, 100, self.now)
                stop = offer.first + offer.count_max
                assert self.core.ack("last", number, [(offer.first, stop)], self.now) == offer.count_max
            for letter in self.core.dead_letters():
                self.core.dead_letter_stored(letter.stream, letter.intent)
            if self.core.floors() == self.ends:
                return
        raise AssertionError(f"records are stranded: {self.core.stats()}")


TestSinkMachine = SinkMachine.TestCase
TestSinkMachine.settings = settings(
    max_examples=200,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

"""`SinkCore` against a plain dict of records, step by step, over restarts at any point.

The model knows one thing a record (where it is, attempts burned) and no ranges, heaps or notes. What it does not say is
which consumer is offered what; there it holds the rules that any choice has to keep. One machine, run for a plain sink, for an
ordered one, and for one without acks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import orjson
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dq.core.ranges import RangeSet
from dq.core.sink import SinkCore
from dq.core.states import State
from dq.errors import InUse
from dq.model.settings import SinkSettings

SHARDS = [("emails", 0), ("emails", 1), ("news", 0)]
CONSUMERS = ["a", "b", "c"]
GRACE, RECONNECT, ATTEMPTS_MAX = 20.0, 5.0, 3
Record = tuple[str, int, int]
IN_HAND = (State.LEASED, State.ISOLATED)
IN_NO_HAND = (State.WAITING, State.DELAYED, State.SUSPECT)


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
    void: bool = False  # sought away, or of a sink without acks: what is said of it changes nothing


class SinkMachine(RuleBasedStateMachine):
    ordered = False
    no_ack = False

    @initialize()
    def begin(self):
        self.now = 1_000.0
        self.log: list[bytes] = []
        self.ends = dict.fromkeys(SHARDS, 0)
        self.first = dict.fromkeys(SHARDS, 0)
        self.next = dict.fromkeys(SHARDS, 0)
        self.over = set(SHARDS)
        self.removed: set[Record] = set()
        self.paused = False
        self.counts = dict.fromkeys(["settled", "filtered", "removed", "missed"], 0)
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
        settings = SinkSettings(ack_grace=GRACE, max_attempts=ATTEMPTS_MAX, ordered=self.ordered, no_ack=self.no_ack)
        return SinkCore("mailers", settings, jitter=Random(1))

    def open(self):
        for shard in sorted(self.over):
            self.open_shard(shard, 0)

    def open_shard(self, shard, start):
        self.core.add_shard(shard, start, "uuid-1", 1)
        self.core.committed(shard, self.ends[shard])
        self.core.removed(
            shard, list(RangeSet.of((offset, offset + 1) for (*of, offset) in self.removed if tuple(of) == shard))
        )

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

    def settle(self, record, counter):
        self.put(record, State.SETTLED)
        self.counts[counter] += 1

    def settle_down(self):
        """What follows from any step: an ordered sink gives back what is out of order, what was removed is passed over."""
        before = self.counts["removed"]
        for shard in self.over:
            if self.ordered:
                records = sorted(record for record in self.where if record[:2] == shard)
                front = next((record for record in records if self.where[record][0] in IN_NO_HAND), None)
                for record in records:
                    if front is not None and record > front and self.where[record][0] in IN_HAND:
                        self.give_back(record)
            while (record := (*shard, self.next[shard])) in self.removed and record in self.where:
                self.settle(record, "removed")
                self.next[shard] += 1
        for record in self.removed:
            if record in self.where and self.where[record][0] in IN_NO_HAND and record[2] < self.next[record[:2]]:
                self.settle(record, "removed")
        return self.counts["removed"] - before

    def begin_anew(self, shard, offset):
        """Nothing is known of a shard but where its cursor stands."""
        self.first[shard] = self.next[shard] = offset
        for known in (self.attempts, self.group, self.delay, self.was_delayed):
            for record in [record for record in known if record[:2] == shard]:
                del known[record]
        self.deadly = {record for record in self.deadly if record[:2] != shard}
        for each in range(self.ends[shard]):
            self.where[*shard, each] = (State.SETTLED if each < offset else State.WAITING, None)
        for lease in self.leases.values():
            if lease.shard == shard:
                lease.void, lease.own, lease.left = True, {}, set()

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
        self.settle_down()
        for lease in self.leases.values():
            for offset, until in sorted(lease.own.items()):
                record = (*lease.shard, offset)
                if until <= self.now and lease.consumer not in self.returning and offset in lease.own:
                    self.burn(record, State.SUSPECT if self.where[record][0] is State.ISOLATED else State.WAITING)
                    self.settle_down()
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
        if shard in self.over:
            for offset in range(self.ends[shard], self.ends[shard] + count):
                self.where[*shard, offset] = (State.WAITING, None)
        self.ends[shard] += count
        self.core.committed(shard, self.ends[shard])
        self.settle_down()

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
        holes=st.sampled_from([0, 0, 0, 0b1, 0b10, 0b110, 0b10101, 0b11100]),
    )
    def lease(self, commits, grants, counts, holes):
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
            offsets = range(offer.first, offer.first + count)
            without = [offset for offset in offsets if holes >> offset - offer.first & 1]
            self.take(offer, offsets, without if len(without) < count else [])

    def take(self, offer, offsets, without):
        given = len(offsets) - len(without)
        ranges = [(offset, offset + 1) for offset in without]
        number = self.core.lease(offer, len(offsets), given * 100, self.now, ranges)
        assert number not in self.leases
        lease = ModelLease(number, offer.consumer, offer.shard, offer.first, offsets.stop, self.now + GRACE, void=self.no_ack)
        self.leases[number] = lease
        self.credit[offer.consumer] -= given
        self.next[offer.shard] = max(self.next[offer.shard], offsets.stop)
        for record in [(*offer.shard, offset) for offset in offsets]:
            if record[2] in without:
                self.settle(record, "filtered")
            elif self.no_ack:
                self.settle(record, "settled")
            else:
                self.put(record, State.ISOLATED if offer.alone else State.LEASED, number)
        self.settle_down()

    @precondition(lambda self: len(self.leases) % 3 == 1)
    @rule(count=st.integers(1, 12), kind=st.sampled_from(["skip", "skip", "remove"]))
    def skip(self, count, kind):
        offer = self.core.offer()
        if offer is None:
            return
        self.check_offer(offer)
        self.core.skip(offer, count, kind)
        stop = min(offer.first + count, self.ends[offer.shard])
        self.next[offer.shard] = max(self.next[offer.shard], stop)
        for record in [(*offer.shard, offset) for offset in range(offer.first, stop)]:
            if self.where[record][0] in IN_NO_HAND:
                self.settle(record, "filtered" if kind == "skip" else "removed")
        self.settle_down()

    def check_offer(self, offer):
        assert not self.paused
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
        assert not self.removed & set(records)
        if self.ordered:
            before = [self.where[record] for record in self.where if record[:2] == offer.shard and record < records[0]]
            assert not [state for state, _ in before if state in IN_NO_HAND], "what waits holds back what is behind it"
            holders = self.holders(offer.shard)
            assert holders <= {offer.consumer}
            assert not (offer.alone and holders)

    def holders(self, shard):
        """The consumers that have records of a shard in hand."""
        return {
            self.leases[number].consumer
            for record, (_, number) in self.where.items()
            if number is not None and record[:2] == shard
        }

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
        if self.paused:
            assert offer is None
            return
        suspects, waiting = self.leasable(State.SUSPECT), self.leasable(State.WAITING)
        if suspects:
            assert bool(offer and offer.alone) == any(not self.held(consumer) for consumer in idle)
            if len(idle) > 1 and any(takers is None for takers in waiting):
                assert offer is not None, "one consumer drains, the others go on"
        else:
            assert (offer is not None) == any(idle if takers is None else takers & set(idle) for takers in waiting)

    def leasable(self, state):
        """For each record that waits so and could be leased now: by whom alone, None for anybody."""
        if not self.ordered:
            return [None for _ in self.waiting(state)]
        found = []
        for shard in self.over:
            front = min(
                [record for record in self.where if record[:2] == shard and self.where[record][0] in IN_NO_HAND], default=None
            )
            holders = self.holders(shard)
            if front is not None and self.where[front][0] is state and not (state is State.SUSPECT and holders):
                found.append(holders or None)
        return found

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
        settles = [record for record in records if self.settles(lease, record)]
        act = self.core.drop if drop else self.core.ack
        assert act(lease.consumer, lease.number, ranges, self.now) == len(settles)
        for record in settles:
            self.settle(record, "settled")
        self.heard(lease.consumer, lease)
        self.settle_down()

    def settles(self, lease, record):
        """Whether an ack by a lease settles a record: late or not, but in an ordered sink only what it has in hand."""
        if lease.void or record not in self.where:
            return False
        state, number = self.where[record]
        return number == lease.number if self.ordered else state not in (State.SETTLED, State.DYING)

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
        in_hand = self.where.get(record) in [(state, lease.number) for state in IN_HAND]
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
        self.settle_down()

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
    @rule(data=st.data(), says_goodbye=st.booleans())
    def go(self, data, says_goodbye):
        self.tick()
        consumer = data.draw(st.sampled_from(self.consumers()), "consumer")
        if says_goodbye:
            self.core.leave(consumer, self.now)
            for record in self.held(consumer):
                self.give_back(record)
        else:
            self.core.died(consumer, self.now)
            self.lose(consumer, self.held(consumer))
        del self.credit[consumer]
        self.settle_down()

    @precondition(lambda self: any(self.held(consumer) for consumer in self.credit))
    @rule(data=st.data(), whole=st.booleans())
    def take_back(self, data, whole):
        """An operator takes records from who has them. Who that is asks for more at once: until then it would get nothing."""
        consumer = data.draw(st.sampled_from([each for each in self.consumers() if self.held(each)]), "consumer")
        held = self.held(consumer)
        if whole:
            chosen = held
            self.core.holders.take_all_back(consumer)
        else:
            first = held[0]
            count = data.draw(st.integers(1, 3), "count")
            chosen = [record for record in held if record[:2] == first[:2]][:count]
            self.core.holders.take_back({first[:2]: RangeSet.of((offset, offset + 1) for *_, offset in chosen)})
        for record in chosen:
            self.give_back(record)
        self.settle_down()
        self.join_or_grant(consumer, 1)

    @rule(seconds=st.sampled_from([0.5, 3.0, 8.0, 25.0]))
    def advance(self, seconds):
        target = self.now + seconds
        while (due := self.core.next_deadline()) is not None and due <= target:
            self.now = max(due, self.now)
            self.core.expire(self.now)
            self.expire()
            self.settle_down()
            self.clean_up()
        self.now = target
        assert self.core.expire(self.now) == 0

    def clean_up(self):
        """S9: who stays silent is sent away, and has nothing in hand then."""
        stats = self.core.stats().consumers
        for consumer in self.core.take_stale():
            assert stats[consumer].silent
            assert not self.held(consumer)
            self.core.died(consumer, self.now)
            del self.credit[consumer]

    @precondition(lambda self: len(self.leases) % 4 == 3)  # now and then: it settles what others could try
    @rule(shard=st.sampled_from(SHARDS), by=st.integers(0, 4))
    def trim(self, shard, by):
        if shard not in self.over:
            return
        first = min(self.core.floors()[shard] + by, self.ends[shard])
        below = [(*shard, offset) for offset in range(first)]
        below = [record for record in below if self.where[record][0] not in (State.SETTLED, State.DYING)]
        missed = [record for record in below if record not in self.removed]
        assert self.core.trimmed(shard, first) == len(missed)
        self.first[shard] = max(self.first[shard], first)
        self.next[shard] = max(self.next[shard], first)
        for record in below:
            self.settle(record, "missed" if record in missed else "removed")
        self.settle_down()

    @precondition(lambda self: self.waiting(State.DYING))
    @rule(data=st.data())
    def store_a_dead_letter(self, data):
        letters = self.core.dead_letters()
        own = [letter for letter in letters if not self.core.is_stray(letter)]
        assert {(letter.stream, letter.bucket, letter.offset) for letter in own} == set(self.waiting(State.DYING))
        letter = data.draw(st.sampled_from(letters), "letter")
        self.core.dead_letter_stored(letter.stream, letter.intent)
        if letter in own:
            self.settle((letter.stream, letter.bucket, letter.offset), "settled")

    # --- what the streams and the users of the sink say ----------------------------------------------------------------

    @precondition(lambda self: len(self.leases) % 4 == 2)
    @rule(shard=st.sampled_from(SHARDS), back=st.integers(-3, 12), count=st.integers(1, 4))
    def remove(self, shard, back, count):
        """Records are taken out of a stream, wherever they stand; some that are not even committed."""
        first = max(self.ends[shard] - back, 0)
        if shard in self.over:
            self.removed |= {(*shard, offset) for offset in range(first, first + count)}
            assert self.core.removed(shard, [(first, first + count)]) == self.settle_down()
        assert self.core.removed(shard, [(first, first + count)]) == 0

    @rule()
    def pause_or_resume(self):
        self.paused = not self.paused
        (self.core.pause if self.paused else self.core.resume)()
        assert self.core.paused == self.core.stats().paused == self.paused

    @precondition(lambda self: len(self.leases) % 5 == 4)
    @rule(shard=st.sampled_from(SHARDS), back=st.integers(0, 12))
    def seek(self, shard, back):
        offset = max(self.ends[shard] - back, 0)
        if shard not in self.over:
            return
        if any(record[:2] == shard for record in self.waiting(State.DYING)):
            before = self.core.snapshot()
            with pytest.raises(InUse):
                self.core.seek(shard, offset)
            assert self.core.snapshot() == before
            return
        self.core.seek(shard, offset)
        self.begin_anew(shard, offset)
        self.settle_down()

    @precondition(lambda self: len(self.leases) % 5 == 3)
    @rule(back=st.integers(0, 12))
    def leave_a_stream_or_come_back(self, back):
        shard = SHARDS[2]
        if shard in self.over:
            self.core.forget_stream(shard[0])
            self.begin_anew(shard, 0)
            self.over.remove(shard)
            self.where = {record: where for record, where in self.where.items() if record[:2] != shard}
        else:
            offset = max(self.ends[shard] - back, 0)
            self.over.add(shard)
            self.begin_anew(shard, offset)
            self.open_shard(shard, offset)
            self.settle_down()

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
        assert self.core.dead_letters() == old.dead_letters()
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
        kept = self.core.rejoin(consumer, [*keeps, 10_000], self.now)
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
        self.settle_down()
        assert kept == [number for number in keeps if self.held(consumer, number)]
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
    def what_is_counted_is_what_the_model_says(self):
        stats = self.core.stats()
        assert {name: getattr(stats, name) for name in self.counts} == self.counts

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
        assert len(self.core._deadlines) <= 2 * len(self.core._book.hands) + delayed + len(self.returning) + 100
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
        self.core.resume()
        for _ in range(300):
            self.now += 100
            self.core.expire(self.now)
            self.core.grant("last", 50)
            while (offer := self.core.offer()) is not None:
                for offset in range(offer.first, offer.first + offer.count_max):
                    assert self.where[*offer.shard, offset][0] not in (State.SETTLED, State.DYING)
                    assert (*offer.shard, offset) not in self.removed
                number = self.core.lease(offer, offer.count_max, 100, self.now)
                stop = offer.first + offer.count_max
                settled = 0 if self.no_ack else offer.count_max
                assert self.core.ack("last", number, [(offer.first, stop)], self.now) == settled
            for letter in self.core.dead_letters():
                self.core.dead_letter_stored(letter.stream, letter.intent)
            if self.core.floors() == {shard: self.ends[shard] for shard in self.over}:
                return
        raise AssertionError(f"records are stranded: {self.core.stats()}")


class OrderedSinkMachine(SinkMachine):
    """Design section 5, ordered: strictly by offset, one consumer at a time for each shard."""

    ordered = True


class NoAckSinkMachine(SinkMachine):
    """S4: a sink without acks delivers at most once."""

    no_ack = True


def examples(count):
    return settings(
        max_examples=count,
        stateful_step_count=50,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )


TestSinkMachine = SinkMachine.TestCase
TestSinkMachine.settings = examples(80)
TestOrderedSinkMachine = OrderedSinkMachine.TestCase
TestOrderedSinkMachine.settings = examples(70)
TestNoAckSinkMachine = NoAckSinkMachine.TestCase
TestNoAckSinkMachine.settings = examples(30)

"""T15: a sink on its disk against a plain model: the real core, its log, and the log it reads, over kills and power cuts.

What the core alone decides is held elsewhere (`tests/core/test_sink_machine.py`). Here it is what the disk has to keep: what
was confirmed, what was published, how often a record was tried, and each dead letter once.
"""

from __future__ import annotations

import errno
import random
from collections import Counter
from dataclasses import replace

import orjson
from faulty_memory import FaultyMemory
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from log_rig import UUID, read_all, record
from sim_files import MemoryFiles
from sim_life import LAYOUT, ROOT

from dq.config import LIMITS
from dq.core.sink import SinkCore
from dq.core.states import State
from dq.errors import SyncFailed
from dq.log.bucket_log import BucketLog
from dq.log.format import Identity
from dq.log.reader import BucketReader
from dq.log.sink_log import SinkLog
from dq.log.storage import Batch
from dq.model.settings import SinkSettings

SHARDS = [("work", 0), ("work", 1)]
CONSUMERS = ["a", "b"]
FATES = ["ack", "ack", "ack", "drop", "late ack", "retry", "dead letter", "release"]
SMALL = replace(LIMITS, sink_segment_bytes=3_000, reserve_bytes=4_096, reconnect_seconds=2.0)
GRACE, ATTEMPTS_MAX = 10.0, 3
Place = tuple[str, int, int]


def wall() -> float:
    return 1_700_000_000.0


class SinkOnDisk(RuleBasedStateMachine):
    """The model: `settled` is what the sink was told and has confirmed, `flushed` that of it which is on disk."""

    @initialize(seed=st.integers(0, 1 << 16))
    def begin(self, seed):
        self.chance = random.Random(seed)
        self.files = FaultyMemory(self.chance)
        for shard in SHARDS:
            self.files.add(LAYOUT.bucket(*shard), None)
        self.files.add(LAYOUT.sinks, None)
        self.now, self.epoch = 1_000.0, 0
        self.published = dict.fromkeys(SHARDS, 0)
        self.settled: set[Place] = set()
        self.flushed: set[Place] = set()
        self.attempts: dict[Place, int] = {}
        self.letters: Counter[tuple[str, int]] = Counter()
        self.letter_of: dict[Place, int] = {}
        self.busy = 0  # how often something was settled since the last power cut
        self.open_all()
        for shard in SHARDS:
            self.publish(shard, [4, 4])
        self.lease("a", 8)

    # --- the two logs ------------------------------------------------------------------------------------------------

    def open_all(self):
        """Both brokers start on what the disk has."""
        self.epoch += 1
        self.logs, self.readers = {}, {}
        self.sink_log, notes = SinkLog.open(self.files, LAYOUT.sink("left"), "left", SMALL, wall)
        self.core = SinkCore("left", SinkSettings(ack_grace=GRACE, max_attempts=ATTEMPTS_MAX), SMALL, random.Random(1))
        for note in notes:
            self.core.replay(note)
        self.core.recover(self.now)
        for shard in SHARDS:
            identity = Identity(*shard, UUID, self.epoch)
            log = BucketLog.open(self.files, LAYOUT.bucket(*shard), identity, 4096, None, SMALL, wall)
            self.logs[shard], self.readers[shard] = log, BucketReader(self.files, LAYOUT.bucket(*shard), SMALL)
            self.core.add_shard(shard, 0, UUID, 1)
            self.committed(shard)
        self.leases: dict[int, tuple[str, tuple[str, int], set[int]]] = {}

    def committed(self, shard):
        self.readers[shard].advance(self.logs[shard].end)
        self.core.committed(shard, self.logs[shard].end.offset)

    def turn(self):
        """Notes are written, intents are flushed and their dead letters published; what was said is confirmed then."""
        letters = [letter for letter in self.core.dead_letters() if (letter.stream, letter.intent) not in self.letters]
        notes = self.core.take_notes()
        if notes:
            self.sink_log.append(notes)
            self.sink_log.write()
        if self.sink_log.full:
            self.sink_log.roll(self.core.snapshot())
            self.flushed = set(self.settled)
        if letters:
            self.flush()
            for letter in letters:
                self.publish_letter(letter)

    def publish_letter(self, letter):
        """As the other broker does: one with a number that it knows is not stored a second time."""
        place = (letter.stream, letter.bucket, letter.offset)
        assert self.letter_of.setdefault(place, letter.intent) == letter.intent, "a record has one intent"
        self.letters.setdefault((letter.stream, letter.intent), 1)

    # --- what happens --------------------------------------------------------------------------------------------------

    @rule(shard=st.sampled_from(SHARDS), counts=st.lists(st.integers(1, 6), min_size=1, max_size=3))
    def publish_some(self, shard, counts):
        self.publish(shard, counts)

    def publish(self, shard, counts):
        log = self.logs[shard]
        for count in counts:
            first = self.published[shard]
            lines = b"".join(record(number, number % 5 * 60) for number in range(first, first + count))
            assert log.append(Batch(f"p{first}", 0, count, lines)).first == first
            self.published[shard] += count
        log.commit()
        self.committed(shard)

    @rule(consumer=st.sampled_from(CONSUMERS), credit=st.integers(1, 8))
    def lease_some(self, consumer, credit):
        self.lease(consumer, credit)

    def lease(self, consumer, credit):
        stats = self.core.stats().consumers
        if consumer not in stats or not stats[consumer].joined:
            self.core.rejoin(consumer, [number for number, (name, *_) in self.leases.items() if name == consumer], self.now)
        self.core.grant(consumer, credit)
        while (offer := self.core.offer()) is not None:
            found = self.readers[offer.shard].read(offer.first, offer.count_max, 2_000)
            numbers = [orjson.loads(line)["payload"]["n"] for line in b"".join(found.parts).splitlines()]
            assert numbers == list(range(offer.first, offer.first + found.count)), "another record stands there"
            places = [(*offer.shard, offset) for offset in numbers]
            assert not self.settled & set(places), "what was confirmed is given out again"
            burned = offer.attempts or {}
            for place in places:
                assert self.attempts.get(place, 0) <= burned.get(place[2], 0) < ATTEMPTS_MAX
                self.attempts[place] = burned.get(place[2], 0)
            number = self.core.lease(offer, found.count, found.size, self.now)
            self.leases[number] = (offer.consumer, offer.shard, set(numbers))
        self.turn()

    @precondition(lambda self: self.open_leases())
    @rule(data=st.data(), fates=st.lists(st.sampled_from(FATES), min_size=1, max_size=8))
    def speak(self, data, fates):
        """A consumer tells of what it holds, one after the other; and now and then of what it held once."""
        number = data.draw(st.sampled_from(self.open_leases()), "lease")
        consumer, shard, offsets = self.leases[number]
        said = set()
        for fate, offset in zip(fates, sorted(offsets), strict=False):
            said |= self.speak_of(data, fate, consumer, number, shard, offset)
            if fate != "late ack":
                offsets.discard(offset)
        self.turn()
        self.settled |= said
        self.busy += bool(said)

    def open_leases(self):
        return sorted(number for number, (*_, offsets) in self.leases.items() if offsets)

    def speak_of(self, data, fate, consumer, number, shard, offset):
        """Returns what is settled by it."""
        if fate in ("ack", "drop", "late ack"):
            act = self.core.drop if fate == "drop" else self.core.ack
            act(consumer, number, [(offset, offset + 1)], self.now)
            return {(*shard, offset)} if self.state(shard, offset) is State.SETTLED else set()
        if fate == "retry":
            self.core.retry(consumer, number, offset, data.draw(st.sampled_from([0.0, 3.0]), "after"), "boom", self.now)
        elif fate == "dead letter":
            self.core.dead_letter(consumer, number, offset, "bad", "", self.now)
        else:
            self.core.release(consumer, number, [(offset, offset + 1)], self.now)
        return set()

    def state(self, shard, offset):
        return self.core._book.ledgers[shard].state_of(offset)

    @rule(consumer=st.sampled_from(CONSUMERS), dies=st.booleans())
    def consumer_goes(self, consumer, dies):
        (self.core.died if dies else self.core.leave)(consumer, self.now)
        self.turn()

    @rule(seconds=st.sampled_from([0.1, 2.5, 11.0]))
    def time_passes(self, seconds):
        self.now += seconds
        self.core.expire(self.now)
        self.turn()

    @rule()
    def flush(self):
        self.sink_log.sync()
        self.flushed = set(self.settled)

    @rule(count=st.integers(0, 3))
    def letters_are_stored(self, count):
        for letter in self.core.dead_letters()[:count]:
            self.publish_letter(letter)
            self.core.dead_letter_stored(letter.stream, letter.intent)
            place = (letter.stream, letter.bucket, letter.offset)
            self.turn()
            self.settled.add(place)

    # --- the ends of a broker --------------------------------------------------------------------------------------------

    @precondition(lambda self: self.busy)
    @rule()
    def kill(self):
        """What was written is there, flushed or not: nothing that was said is forgotten."""
        before = self.lasting()
        self.files = FaultyMemory.over(self.files.killed())
        self.reopen()
        assert self.lasting() == before

    @precondition(lambda self: self.busy)
    @rule(size=st.integers(1, 200))
    def kill_in_a_write(self, size):
        """The last notes are torn: what they said was not confirmed."""
        self.core.join("torn", self.now)
        self.core.grant("torn", 1)
        offer = self.core.offer()
        if offer is None or offer.consumer != "torn":
            self.core.leave("torn", self.now)
            self.turn()
            return
        lease = self.core.lease(offer, 1, 100, self.now)
        self.core.ack("torn", lease, [(offer.first, offer.first + 1)], self.now)
        self.files.short_next(size)
        self.files.fail_next("write_some", errno.EIO, after=1)
        self.sink_log.append(self.core.take_notes())
        try:
            self.sink_log.write()
        except SyncFailed:
            self.files = FaultyMemory.over(self.files.killed())
            self.reopen()
            assert self.sink_log.report.torn_bytes == size, "the torn notes are kept away, and nothing else"

    @precondition(lambda self: self.busy)
    @rule()
    def kill_and_start_again(self):
        """A start changes nothing: a second one finds the same."""
        self.kill()
        self.kill()
        assert self.sink_log.report.torn_bytes == 0

    @precondition(lambda self: self.busy)
    @rule(seed=st.integers(0, 1 << 16))
    def power_cut(self, seed):
        """What was flushed is there; of the rest anything may be, and it is delivered again."""
        self.files = FaultyMemory.over(self.files.power_cut(random.Random(seed)))
        self.settled, self.busy = set(self.flushed), 0
        self.attempts.clear()
        self.reopen()
        known = {(letter.stream, letter.intent) for letter in self.core.dead_letters()}
        self.letter_of = {place: intent for place, intent in self.letter_of.items() if (place[0], intent) in self.letters}
        assert all(number < self.core._book.next_intents.get("work", 0) for _, number in self.letters), "an intent is forgotten"
        assert known <= {("work", number) for number in range(self.core._book.next_intents.get("work", 0))}

    def reopen(self):
        self.open_all()
        for shard, count in self.published.items():
            assert self.logs[shard].end.offset == count, "what had a receipt is lost"
        for stream, bucket, offset in self.settled:
            assert self.state((stream, bucket), offset) is State.SETTLED, "a confirmed ack is forgotten"
        self.turn()

    def lasting(self):
        """What a kill may not change."""
        book = self.core._book
        return {
            shard: (
                ledger.floor,
                ledger.next,
                list(ledger.settled),
                sorted(ledger.dying),
                {offset: burned.attempts for offset, burned in ledger.burned.items()},
            )
            for shard, ledger in book.ledgers.items()
        }, sorted(book.intents)

    # --- always ----------------------------------------------------------------------------------------------------------

    @invariant()
    def what_is_confirmed_stays_settled(self):
        for stream, bucket, offset in self.settled:
            assert self.state((stream, bucket), offset) is State.SETTLED

    def teardown(self):
        """In the end each record is settled, and each one given up is one dead letter."""
        if not hasattr(self, "core"):
            return
        for consumer in [*CONSUMERS, "torn"]:
            self.core.leave(consumer, self.now)
        self.core.join("last", self.now)
        for _ in range(100):
            self.now += 20
            self.core.expire(self.now)
            self.core.grant("last", 50)
            while (offer := self.core.offer()) is not None:
                number = self.core.lease(offer, offer.count_max, 100, self.now)
                assert not self.settled & {(*offer.shard, offer.first + n) for n in range(offer.count_max)}
                self.core.ack("last", number, [(offer.first, offer.first + offer.count_max)], self.now)
            self.turn()
            self.letters_are_stored(100)
            if self.core.floors() == self.published:
                break
        assert self.core.floors() == self.published, "records are stranded"
        assert sorted(self.letters) == [("work", number) for number in range(len(self.letters))], "a number was left out"
        assert len(set(self.letter_of.values())) == len(self.letter_of), "two records have one dead letter"
        for shard, count in self.published.items():
            reader = BucketReader(MemoryFiles(self.files._root), LAYOUT.bucket(*shard), SMALL)
            reader.advance(self.logs[shard].end)
            lines = read_all(reader, 0, count).splitlines()
            assert [orjson.loads(line)["payload"]["n"] for line in lines] == list(range(count))
        quarantined = [path for path in self.files.walk() if path.parent == ROOT / "quarantine"]
        assert all(path.suffix == ".torn" for path in quarantined)


def test_what_a_sink_has_confirmed_survives_kills_and_power_cuts(request):
    """T15: publish, lease, settle, retry, dead-letter, expire, roll, kill, tear, power cut, reopen; in any order."""
    run_state_machine_as_test(
        SinkOnDisk,
        settings=settings(
            max_examples=request.config.getoption("--machine-examples"),
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        ),
    )

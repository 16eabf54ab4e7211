"""H (delays): which delayed records wait, are on their way, and have come; against a naive model, with a crash at any note."""

from __future__ import annotations

import heapq
from array import array
from dataclasses import replace

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dq.config import LIMITS
from dq.core.later import Later, remaining
from dq.core.offset_bits import OffsetBits
from dq.core.schedule import Schedule
from dq.core.sink import SinkCore
from dq.errors import Damaged
from dq.model.dead_letter import lane_of
from dq.model.settings import SinkSettings

DELAYS = st.one_of(st.floats(0, 3), st.floats(0, 4_000), st.floats(0, 1e9), st.sampled_from([0.0, 1.0, 63.99, 64.0, 4096.0]))


def come(schedule: Schedule, now: float) -> list[int]:
    """All that is due, however many calls it takes."""
    taken: list[int] = []
    while (due := schedule.due()) is not None and due <= now:
        taken += schedule.take(now, 50)
    return taken


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.booleans(), DELAYS), max_size=120))
def test_all_come_at_their_time_and_none_before(steps):
    schedule, now, known, count = Schedule(), 1000.0, [], 0
    for is_new, seconds in steps:
        if is_new:
            schedule.put(now + seconds, count, now)
            heapq.heappush(known, (now + seconds, count))
            count += 1
        else:
            now += seconds
            got = come(schedule, now)
            wanted = [heapq.heappop(known) for _ in range(len(known)) if known[0][0] <= now]
            assert sorted(got) == sorted(offset for _, offset in wanted)
        assert len(schedule) == len(known) == len(list(schedule))


@settings(max_examples=60, deadline=None)
@given(st.lists(DELAYS, min_size=1, max_size=60))
def test_who_wakes_when_it_says_takes_each_within_the_instant_in_order(delays):
    schedule, now = Schedule(), 1000.0
    for offset, seconds in enumerate(delays):
        schedule.put(now + seconds, offset, now)
    got: list[int] = []
    for _ in range(3_000):
        due = schedule.due()
        if due is None:
            break
        now = max(now, due)
        taken = schedule.take(now, 50)
        assert all(1000.0 + delays[offset] >= now - 1e-6 for offset in taken) or due <= now
        got += taken
    assert got == sorted(range(len(delays)), key=lambda offset: (1000.0 + delays[offset], offset))


def test_a_hundred_thousand_take_16_bytes_each_and_a_turn_is_short():
    schedule, now, count = Schedule(), 0.0, 100_000
    for offset in range(count):
        schedule.put(100.0 + (offset * 7919 % count) / 1000, offset, now)
    chunks = [chunk for level in schedule._levels for slot in level.values() for chunk in slot.chunks]
    room = sum(len(part) * part.itemsize for chunk in chunks for part in chunk if isinstance(part, array))
    assert room == 16 * count
    got: list[int] = []
    while (due := schedule.due()) is not None:
        now = max(now, due)
        got += schedule.take(now, 1_000)
    assert sorted(got) == list(range(count))
    assert [offset * 7919 % count for offset in got] == list(range(count))


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 20), st.lists(st.tuples(st.sampled_from(["add", "cut", "copy"]), st.integers(0, 90)), max_size=60))
def test_bits_are_a_set(floor, steps):
    bits, model = OffsetBits(floor), set(range(floor))
    for act, offset in steps:
        if act == "add":
            assert bits.add_all([offset]) == (offset not in model)
            model.add(offset)
        elif act == "cut":
            bits.cut(offset)
            model = {each for each in model if each < offset}
        else:
            bits = OffsetBits.decode(bits.floor, bits.encode())
        assert [offset in bits for offset in range(100)] == [offset in model for offset in range(100)]
        assert bits.count == len(model)
        assert bits.floor == next(offset for offset in range(101) if offset not in model)
        assert bits.stop == max(model, default=-1) + 1


class Rig:
    """The core, its log, and what its stream has got by (bucket, number): the same number is stored once."""

    def __init__(self) -> None:
        self.log: list[bytes] = []
        self.got: dict[tuple[str, int, int], tuple[int, ...]] = {}
        self.core = Later("s-later")
        self.core.begin("u", 1)
        self.end, self.lost = 0, set[int]()
        self.write()

    def write(self) -> None:
        self.log += self.core.take_notes()

    def crash(self, written: int) -> None:
        """The notes of this turn after the first `written` are lost; what was sent before is not."""
        self.log += self.core.take_notes()[:written]
        core = Later("s-later")
        for line in self.log:
            core.replay(orjson.loads(line))
        self.core = core
        assert core.snapshot() == again(core).snapshot()

    def look(self, now: float) -> None:
        for offset in range(self.core.next, self.end):
            self.core.learn(offset, now, now)

    def send(self) -> None:
        self.write()
        for move in self.core.moves():
            key = (self.core.making_of(move.bucket), move.bucket, move.number)
            assert self.got.setdefault(key, move.offsets) == move.offsets


def again(core: Later) -> Later:
    made = Later("s-later")
    for line in core.snapshot():
        made.replay(orjson.loads(line))
    return made


STEPS = st.lists(
    st.tuples(st.sampled_from(["publish", "move", "send", "stored", "crash", "remove", "roll"]), st.integers(0, 9)), max_size=60
)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_each_comes_exactly_once_whatever_is_lost_of_the_last_turn(steps):
    """Replay at any note: an intent that was not written was not sent; one that was is sent again with its number."""
    rig, now = Rig(), 0.0
    for act, number in steps:
        now += 1
        rig.look(now)
        if act == "publish":
            rig.end += number
        elif act == "move":
            due = rig.core.take_due(now, number)
            for bucket in {offset % 2 for offset in due}:
                rig.core.move(bucket, [offset for offset in due if offset % 2 == bucket])
        elif act == "send":
            rig.send()
        elif act == "stored":
            sent = [move for move in rig.core.moves() if (rig.core.making_of(move.bucket), move.bucket, move.number) in rig.got]
            for move in sent[:number]:
                assert rig.core.stored(move.bucket, move.number) == len(move.offsets)
                assert rig.core.stored(move.bucket, move.number) == 0
        elif act == "crash":
            rig.crash(number)
        elif act == "remove" and number < rig.end:
            if rig.core.lose([(number, number + 1)]):
                rig.lost.add(number)
                rig.write()
        elif act == "roll":
            rig.write()
            rig.log = rig.core.snapshot()
    for _ in range(2):
        now += 100
        rig.look(now)
        for offset in rig.core.take_due(now, 1_000):
            rig.core.move(offset % 2, [offset])
        rig.send()
        for move in rig.core.moves():
            rig.core.stored(move.bucket, move.number)
    came = sorted(offset for offsets in rig.got.values() for offset in offsets)
    assert came == [offset for offset in range(rig.end) if offset not in rig.lost]
    assert rig.core.floor == rig.end
    assert rig.core.waiting(rig.end) == 0


def test_a_batch_that_cannot_be_read_any_more_changes_nothing_for_other_buckets():
    """What is under way there may be stored, and would come twice as batches of a new making."""
    rig = Rig()
    rig.end = 3
    rig.look(0.0)
    for bucket, offset in zip((1, 1, 2), rig.core.take_due(0.0, 3), strict=True):
        rig.core.move(bucket, [offset])
    assert (rig.core.is_first(1, 0), rig.core.is_first(1, 1), rig.core.is_first(2, 0)) == (True, False, True)
    rig.core.void(1, 0)
    rig.write()
    replayed = Later("s-later")
    for line in rig.log:
        replayed.replay(orjson.loads(line))
    for core in (rig.core, replayed, again(replayed)):
        assert (core.making_of(1), core.making_of(2), core.gone) == ("0.1", "0", 1)
        assert [(move.bucket, move.number) for move in core.moves()] == [(1, 1), (2, 0)]


def test_a_log_that_lost_its_end_gives_up_what_was_under_way_there():
    rig = Rig()
    rig.end = 10
    rig.look(0.0)
    rig.core.move(0, rig.core.take_due(0.0, 4))
    rig.core.move(0, rig.core.take_due(0.0, 4))
    assert rig.core.begin_epoch(2, 6) == 4
    assert [move.offsets for move in rig.core.moves()] == [(0, 1, 2, 3)]
    rig.crash(99)
    assert (rig.core.epoch, rig.core.making, rig.core.next) == (2, 1, 0)
    rig.end = 7
    rig.look(1.0)
    assert rig.core.take_due(1.0, 10) == [4, 5, 6]


@pytest.mark.parametrize(
    "line",
    [
        b"7", b'{"move":1,"bucket":0,"offsets":[1]}', b'{"move":0,"bucket":0,"offsets":[]}', b'{"moved":0,"bucket":0}',
        b'{"move":0,"bucket":0,"offsets":[1,1]}', b'{"gone":[[3,1]]}', b'{"later":"other","uuid":"x","epoch":1}',
        b'{"snapshot":1,"later":"s-later","uuid":"u","epoch":1}', b'{"move":0,"bucket":-1,"offsets":[1]}',
    ],
)  # fmt: skip
def test_a_note_that_cannot_be_is_damage(line):
    with pytest.raises(Damaged, match="s-later"):
        Rig().core.replay(orjson.loads(line))


def test_a_note_of_a_later_version_is_passed_over():
    core = Rig().core
    core.replay({"sung": 1})
    assert core.floor == 0


@pytest.mark.parametrize(("due", "at", "wall", "left"), [(10, 0, 4, 6), (10, 0, 40, 0), (10, 0, -90, 10), (5, 9, 0, 0)])
def test_a_wall_clock_that_leaps_makes_no_delay_longer(due, at, wall, left):
    """trust.md, "Clock": clamped to [0, due - at]."""
    assert remaining(due, at, wall) == left


def test_a_retry_over_the_limit_is_an_intent_with_a_time_and_numbers_of_its_own():
    """H3, H12: it is counted as a retry, and dead letters of the same stream keep their numbers."""
    limits, shard = replace(LIMITS, later_seconds=0.5), ("s", 0)

    def sink() -> SinkCore:
        return SinkCore("x", SinkSettings(max_attempts=3), limits)

    core, log = sink(), []
    core.add_shard(shard, 0, "u", 1)
    core.committed(shard, 3)
    core.join("c", 0.0)
    core.grant("c", 3)
    core.wall = 100.0
    lease = core.lease(core.offer(), 3, 30, 0.0)
    core.retry("c", lease, 0, 0.4, "E: soon", 1.0)
    core.retry("c", lease, 1, 0.6, "E: later", 1.0)
    core.dead_letter("c", lease, 2, "why", "", 1.0)
    log += core.take_notes()
    again_core = sink()
    for line in log:
        again_core.replay(orjson.loads(line))
    third = sink()
    for line in again_core.snapshot():
        third.replay(orjson.loads(line))
    for each in (core, again_core, third):
        dead, late = each.dead_letters()
        assert (late.offset, late.due, late.attempts, late.intent, late.target) == (1, 100.6, 1, 0, "s-later")
        assert (dead.offset, dead.due, dead.intent, dead.target) == (2, 0.0, 0, "s-dlq")
        each.dead_letter_stored(lane_of("s-later"), 0)
        each.dead_letter_stored(lane_of("s-dlq"), 0)
        assert each.dead_letters() == []
        assert (each.stats().retried, each.stats().dead_lettered, each.stats().settled) == (2, 1, 2)


def test_a_bucket_that_lost_its_end_gets_what_is_under_way_as_batches_of_a_new_making():
    """A stream that may lose its end has lost batches that were stored: the next one would leave a gap for ever."""
    later = Later("s-later")
    later.begin("u", 1)
    for offset in range(4):
        later.learn(offset, 1.0, 0.0)
    log, stored = [], later.take_due(1.0, 4)
    for bucket, offset in ((2, stored[0]), (2, stored[1]), (2, stored[2]), (1, stored[3])):
        later.move(bucket, [offset])
    later.stored(2, 0)
    # One that is not the first under way says nothing: the batch before it may be on its way still
    assert not later.gap(2, 2)
    assert later.making_of(2) == "0"
    # The first one does, and of that bucket alone
    assert later.gap(2, 1)
    log += later.take_notes()
    again, third = Later("s-later"), Later("s-later")
    for line in log:
        again.replay(orjson.loads(line))
    for line in again.snapshot():
        third.replay(orjson.loads(line))
    for each in (later, again, third):
        assert [(move.bucket, move.number) for move in each.moves()] == [(1, 0), (2, 1), (2, 2)]
        assert (each.making_of(1), each.making_of(2)) == ("0", "0.1")
        assert [each.stored(2, 1), each.stored(2, 2), each.stored(1, 0)] == [1, 1, 1]
        assert each.waiting(4) == 0

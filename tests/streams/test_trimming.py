"""What goes of streams, and when, without processes: marks against a model, clocks that jump, what the other broker hears."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dq.broker.notices import Notices
from dq.broker.trimming import Trimming
from dq.clock import FakeClock
from dq.config import LIMITS, Limits
from dq.errors import InvalidSetting
from dq.log.catalog import Catalog, OpenStream
from dq.log.files import Files
from dq.log.storage import Batch
from dq.model.event import Event, EventOwner, EventType, decode
from dq.model.settings import StreamSettings

SMALL = {"segment_bytes": 4096}


@dataclass
class FakeLife:
    """What trimming asks of the life of its process."""

    root: Path
    clock: FakeClock
    files: Files = field(default_factory=Files)
    limits: Limits = LIMITS
    failed: list[BaseException] = field(default_factory=list)

    def fail(self, error: BaseException) -> None:
        self.failed.append(error)


class FakeNeighbour:
    """The other broker's end of the pipe: takes what it is told, or not."""

    def __init__(self) -> None:
        self.told: list[Event] = []
        self.reads = True

    def send(self, event: Event) -> bool:
        if self.reads:
            self.told.append(decode(event.encode()))
        return self.reads


class FakeReaders:
    """The readers that this broker serves: which streams they were told of."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def changed(self, name: str) -> None:
        self.told.append(name)

    def destroyed(self, name: str) -> None:
        self.told.append(f"{name} destroyed")


class Bench:
    """The publisher broker's part of trimming, in one thread, under a clock that is moved by hand."""

    def __init__(self, root: Path, limits: Limits = LIMITS) -> None:
        self.clock = FakeClock(wall=time.time())
        self.life = FakeLife(root, self.clock, limits=limits)
        self.neighbour, self.readers = FakeNeighbour(), FakeReaders()
        self.start()

    def start(self) -> None:
        """A broker that is new: it has what is on disk."""
        self.catalog = Catalog(self.life.files, self.life.root, self.life.limits, self.clock.wall)
        self.catalog.open()
        assert not self.catalog.errors
        self.notices = Notices(self.neighbour, self.readers)
        self.trimming = Trimming(self.life, self.catalog, self.notices)
        for stream in self.catalog.streams.values():
            self.trimming.opened(stream)

    def make(self, **wish: object) -> OpenStream:
        stream = self.catalog.create("orders", StreamSettings(**{**SMALL, **wish}))
        self.trimming.opened(stream)
        return stream

    def add(self, count: int = 1, bucket: int = 0, size: int = 100) -> None:
        stream = self.stream
        writer = stream.writers[bucket]
        writer._wall = self.clock.wall
        line = b'{"at":%.3f,"payload":"%s"}\n' % (self.clock.wall(), b"x" * size)
        writer.append(Batch(f"p{writer.end.offset}", 0, count, line * count))
        self.trimming.committed(stream, bucket, writer.commit())

    def look(self, seconds: float = 1.0) -> list[str]:
        """A second goes by, and its turn."""
        self.clock.advance(seconds)
        return self.trimming.run_due()

    @property
    def stream(self) -> OpenStream:
        return self.catalog.streams["orders"]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    root = tmp_path / "queue_data"
    root.mkdir(mode=0o700)
    return Bench(root)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 1), st.integers(1, 9)),
        st.tuples(st.just("trim"), st.integers(0, 60), st.integers(0, 60)),
        st.tuples(st.just("remove"), st.integers(0, 1), st.sets(st.integers(0, 60), max_size=5)),
        st.tuples(st.just("look"), st.none(), st.none()),
        st.tuples(st.just("start"), st.booleans(), st.none()),
    ),
    max_size=25,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([{}, {"max_records": 12}, {"retention": "forever"}]), STEPS)
def test_what_can_be_read_is_what_a_model_says(wish, steps):
    """S2: after every step, and after a broker that was killed has started again."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as directory:
        root = Path(directory) / "queue_data"
        root.mkdir(mode=0o700)
        bench = Bench(root)
        bench.make(buckets=2, **wish)
        model: list[set[int]] = [set(), set()]
        ends = [0, 0]
        for what, one, two in steps:
            if what == "add":
                bench.add(two, one)
                model[one] |= set(range(ends[one], ends[one] + two))
                ends[one] += two
            elif what == "trim":
                kept = [{n for n in offsets if n >= mark} for offsets, mark in zip(model, (one, two), strict=True)]
                assert bench.trimming.trim(bench.stream, [one, two]) == sum(map(len, model)) - sum(map(len, kept))
                model = kept
            elif what == "remove":
                assert bench.trimming.remove(bench.stream, [two if one == n else () for n in (0, 1)]) == len(model[one] & two)
                model[one] -= two
            elif what == "look":
                bench.look()
            else:
                if one:
                    bench.catalog.close(clean=True)
                bench.start()
            if "max_records" in wish:
                model = [{n for n in offsets if n >= end - 6} for offsets, end in zip(model, ends, strict=True)]
            stream, firsts = bench.stream, bench.stream.firsts()
            assert [
                {n for n in range(first, end) if not stream.gone.has(bucket, n)}
                for bucket, (first, end) in enumerate(zip(firsts, ends, strict=True))
            ] == model
            assert all(writer.stats().first_offset <= first for writer, first in zip(stream.writers, firsts, strict=True))
        bench.catalog.close(clean=True)


def test_segments_below_a_mark_are_unlinked_after_a_kill_in_between(bench):
    """S2: the publisher broker was killed between the mark and the deletion."""
    bench.make()
    for _ in range(10):
        bench.add(20)
    assert bench.trimming.trim(bench.stream, [150]) == 150
    assert bench.stream.writers[0].stats().first_offset == 0
    # When it is killed here, and another one starts
    bench.start()
    bench.trimming.run_due()
    # Then the mark is there, and what was below it is not
    assert bench.stream.firsts() == [150]
    assert 100 <= bench.stream.writers[0].stats().first_offset <= 150


def test_a_removed_record_is_forgotten_when_its_segment_is_gone(bench):
    bench.make()
    for _ in range(10):
        bench.add(20)
    assert bench.trimming.remove(bench.stream, [{5, 199}]) == 2
    bench.trimming.trim(bench.stream, [190])
    bench.trimming.run_due()
    assert bench.stream.gone.listed() == [[0, 199, 200]]
    bench.start()
    assert (bench.stream.gone.listed(), bench.stream.gone.taken) == ([[0, 199, 200]], 2)


def test_too_many_gaps_are_refused_in_words(tmp_path):
    root = tmp_path / "queue_data"
    root.mkdir(mode=0o700)
    bench = Bench(root, replace(LIMITS, removed_ranges_max=2))
    bench.make()
    bench.add(20)
    assert bench.trimming.remove(bench.stream, [{1, 3}]) == 2
    with pytest.raises(InvalidSetting, match="3 gaps of removed records, and 2 are the most"):
        bench.trimming.remove(bench.stream, [{5}])
    assert bench.trimming.remove(bench.stream, [{2, 4}]) == 2
    assert bench.stream.gone.listed() == [[0, 1, 5]]


# --- clocks --------------------------------------------------------------------------------------------------------------
def test_each_record_goes_when_it_is_too_old(bench):
    bench.make(max_age=60.0)
    for _ in range(5):
        bench.add(10)
        bench.look(10)
    assert bench.stream.firsts() == [0]
    bench.look(9)
    bench.look(2)
    assert bench.stream.firsts() == [10]
    bench.start()
    bench.look(10)
    assert bench.stream.firsts() == [20]
    for _ in range(40):
        bench.look(1)
    assert bench.stream.firsts() == [50]
    assert len(bench.stream.writers[0].segments()) == 1


def test_a_clock_that_leaps_ahead_pauses_one_look(bench, caplog):
    """Trust "Clock": it is logged, nothing goes at that look; if the time stays so, it is believed."""
    bench.make(max_age=7_200.0, ttl=10_000.0)
    bench.add(10)
    bench.look()
    bench.clock.jump(86_400)
    assert bench.look() == []
    assert bench.stream.firsts() == [0]
    assert "leapt ahead by 86400 s" in caplog.text
    assert bench.look() == ["orders"]
    assert bench.stream.firsts() == [10]


def test_a_clock_that_was_set_back_drops_nothing(bench):
    bench.make(max_age=60.0)
    bench.add(10)
    bench.clock.jump(-86_400)
    bench.look()
    bench.look(30)
    assert bench.stream.firsts() == [0]


def test_a_ttl_goes_on_while_no_broker_runs(bench):
    bench.make(ttl=100.0)
    bench.clock.advance(99)
    bench.start()
    assert bench.look(0.5) == []
    assert bench.look(1) == ["orders"]


def test_a_sliding_ttl_counts_from_the_last_write_after_a_restart(bench):
    bench.make(ttl=100.0, ttl_sliding=True)
    bench.clock.advance(90)
    bench.add()
    assert bench.look(90) == []
    bench.start()  # the file was written, by the clock of the system, when this test began
    assert bench.look(1) == ["orders"]


# --- what the other broker hears -----------------------------------------------------------------------------------------
def told(bench: Bench) -> list[dict[str, object]]:
    bench.notices.send()
    events, bench.neighbour.told = bench.neighbour.told, []
    assert all((event.type, event.owner) == (EventType.TRIM, EventOwner.PUBLISHER_BROKER) for event in events)
    return [event.fields for event in events]


def test_the_other_broker_is_told_of_marks_and_of_removed_records(bench):
    """S2 better: who loses unread records can be told."""
    stream = bench.make()
    bench.add(20)
    assert told(bench) == []
    bench.trimming.trim(stream, [5])
    bench.trimming.remove(stream, [{7, 8}])
    whole = {"stream": "orders", "uuid": stream.uuid, "epoch": 1, "marks": [5], "removed": [[0, 7, 9]]}
    assert bench.notices.urgent
    assert told(bench) == [whole]
    assert told(bench) == []
    assert bench.readers.told == ["orders", "orders"]
    # And one that is new is told all of it
    bench.notices.begin_anew(bench.catalog.streams.values())
    assert told(bench) == [whole]


def test_what_the_other_broker_does_not_take_now_is_told_later(bench):
    stream = bench.make()
    bench.add(20)
    bench.neighbour.reads = False
    bench.trimming.trim(stream, [5])
    assert told(bench) == []
    bench.trimming.trim(stream, [9])
    bench.notices.destroyed(stream)
    bench.neighbour.reads = True
    assert told(bench) == [{"stream": "orders", "uuid": stream.uuid, "destroyed": True}]


def test_a_limit_is_told_with_the_next_look_and_wakes_nobody_before(bench):
    bench.make(max_records=5)
    bench.add(20)
    assert bench.notices.waiting
    assert not bench.notices.urgent
    bench.look()
    assert bench.notices.urgent
    assert [fields["marks"] for fields in told(bench)] == [[15]]


def test_floors_of_a_stream_that_is_no_more_are_nothing_to_the_new_one(bench):
    """S2: what the sinks had settled of the old one says nothing of the new one."""
    old = bench.make(keep_seconds=0)
    bench.trimming.settled("orders", 0, 100, old.uuid)
    bench.catalog.destroy("orders")
    bench.trimming.forget("orders")
    bench.make(keep_seconds=0)
    for _ in range(5):
        bench.add(20)
    bench.trimming.settled("orders", 0, 90, old.uuid)
    bench.trimming.run_due()
    assert bench.stream.writers[0].stats().first_offset == 0
    bench.trimming.settled("orders", 0, 90, bench.stream.uuid)
    bench.look(60)
    assert 0 < bench.stream.writers[0].stats().first_offset <= 90

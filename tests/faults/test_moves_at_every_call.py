"""Killed before each call on the way of delayed records, late retries, dead letters and replays: each arrives exactly once.

`pytest tests/faults --every-fault` takes every call; by default some of them, spread over all.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from faulty_memory import FaultyMemory
from log_rig import read_all
from play import litter
from two_brokers import LAYOUT, ROOT, SMALL

from dq.broker.laters import Laters
from dq.broker.opened import check_later, describe
from dq.broker.sinks import Sinks
from dq.clock import FakeClock
from dq.errors import DiskFull, DqError, LogError, SyncFailed
from dq.log.catalog import Catalog, OpenStream
from dq.log.directories import make_directory
from dq.log.reader import BucketReader
from dq.log.storage import Batch
from dq.model.dead_letter import lane_of
from dq.model.event import Event, EventOwner, EventType, decode
from dq.model.names import base_stream
from dq.model.settings import SinkSettings, StreamSettings
from stage import announce

STREAM, LATER, DEAD, SINK, CONSUMER = "work", "work-later", "work-dlq", "workers", "c-1"
PLAIN, DELAYED, RETRIED, GIVEN_UP = range(4), range(10, 18), range(20, 23), range(30, 33)
LATE_SECONDS, ROUNDS = 100.0, 40  # a round is 10 s


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Said:
    """What was confirmed to somebody: it must be true from then on.

    Attributes:
        receipts: publishers whose one batch was answered, by their ids.
        replayed: dead letters that were taken out after their replay.
        received: records that were in the consumer's hand.
    """

    receipts: set[str] = field(default_factory=set)
    replayed: set[int] = field(default_factory=set)
    received: set[int] = field(default_factory=set)


def line_of(number: int, at: float, delay: float = 0.0, **fields: Any) -> bytes:
    due = {"due": at + delay} if delay else {}
    return orjson.dumps({"at": at, **due, **fields, "payload": {"n": number, "pad": "x" * 150}}) + b"\n"


class Life:
    """Both brokers of one directory and their clients, from a start to a kill or to the end of all the work."""

    def __init__(self, files: FaultyMemory, said: Said, clock: FakeClock) -> None:
        self.files, self.said, self.clock = files, said, clock
        self.errors, self.joined = 0, False
        make_directory(files, LAYOUT.streams)
        make_directory(files, LAYOUT.sinks)
        self.catalog = Catalog(files, ROOT, SMALL)
        self.catalog.open()
        life = SimpleNamespace(root=ROOT, files=files, limits=SMALL, clock=clock, sink_defaults={})
        self.sinks, self.laters = Sinks(life), Laters(life)  # type: ignore[arg-type]
        self.sinks.open()
        self.laters.open()
        assert not self.catalog.errors | self.sinks.closed | self.laters.closed

    def play(self) -> None:
        """Goes on until all is done that was asked for."""
        for _ in range(ROUNDS):
            self._ask(self._publish)
            self._tell()
            self._move()
            self._consume()
            self._ask(self._replay)
            self.clock.advance(10.0)
            if self._is_done():
                self._end()
                return
        raise AssertionError(f"it does not come to its end: {self.figures()}")

    def _ask(self, act: Callable[[], None]) -> None:
        """Of the publisher broker; who asked in vain asks again in the next round."""
        try:
            act()
        except DiskFull:
            self.errors += 1

    def _end(self) -> None:
        self._tell()
        for run in self.sinks:
            run.close()
        self.laters.close()
        self.catalog.close(clean=True)

    # --- the publisher broker ----------------------------------------------------------------------------------------

    def _stream(self, name: str) -> OpenStream:
        found = self.catalog.get(name)
        if found is not None:
            return found
        settings = StreamSettings(buckets=2, segment_bytes=4_096, keep_seconds=0, keep_bytes=0)
        base = base_stream(name)
        if base is not None:
            settings = self._stream(base).settings.of_later() if name == LATER else StreamSettings()
        return self.catalog.create(name, settings)

    def _store(self, stream: str, bucket: int, batch: Batch) -> None:
        writer = self._stream(stream).writers[bucket]
        writer.append(batch)
        writer.commit()

    def _publish(self) -> None:
        """One publisher a batch: what it has no receipt for, it sends again."""
        at = self.clock.wall()
        for number in DELAYED:
            self._publish_one(LATER, 0, line_of(number, 1.5, at - 1.5 + number % 3 * 10 - 5), number)
        for number in (*PLAIN, *RETRIED, *GIVEN_UP):
            self._publish_one(STREAM, number % 2, line_of(number, 1.5), number)

    def _publish_one(self, stream: str, bucket: int, line: bytes, number: int) -> None:
        publisher = f"p-{number}"
        if publisher not in self.said.receipts:
            known = self.lines.setdefault(number, line)
            self._store(stream, bucket, Batch(publisher, 0, 1, known, (), True))
            self.said.receipts.add(publisher)

    lines: dict[int, bytes] = {}  # noqa: RUF012
    """As they were first sent: what is sent again is the same."""

    def _write(self, event: Event) -> Event:
        """What the consumer broker has it store: its answer."""
        stream, fields = event["stream"], event.fields
        echo = {name: fields[name] for name in ("stream", "publisher", "sequence", "bucket") if name in fields}
        try:
            check_later(self.catalog, stream, event.get("uuid"))
            self._store(
                stream, event.get("bucket", 0), Batch(
                    event["publisher"], event["sequence"], event.get("count", 1), event.body, (), False, event.get("about")
                ),
            )  # fmt: skip
        except SyncFailed:
            raise  # it ends itself
        except DqError as error:
            self.errors += 1
            refused = {**echo, "error": type(error).__name__, "message": str(error)}
            return Event(EventType.NACK, EventOwner.PUBLISHER_BROKER, refused)
        return Event(EventType.ACK, EventOwner.PUBLISHER_BROKER, echo)

    # --- the consumer broker -----------------------------------------------------------------------------------------

    def _tell(self) -> None:
        for stream in self.catalog.streams.values():
            for bucket, writer in enumerate(stream.writers):
                self.sinks.committed((stream.name, bucket), writer.end, stream.uuid, stream.epoch)
                self.laters.committed(stream.name, writer.end, stream.uuid, stream.epoch)

    def _move(self) -> None:
        for _ in range(4):
            for run, moves in self.laters.turn(self.clock.monotonic()):
                for event in moves:
                    answer = self._write(event)
                    self.laters.answered(answer, stored=answer.type is EventType.ACK)
                run.write_notes()
        self._tell()

    def _consume(self) -> None:
        opened = describe(self._stream(STREAM))
        run = self.sinks.get_or_make(SINK, SinkSettings(max_attempts=3).to_dict(), [opened])
        now, run.core.wall = self.clock.monotonic(), self.clock.wall()
        if not self.joined:
            self.joined = True
            self.sinks.put_over(run, opened)
            run.core.rejoin(CONSUMER, (), now)
        self._tell()
        for _ in range(3):
            run.core.grant(CONSUMER, 20)
            pushes, _ = run.dispatch(now)
            run.write_notes()
            for _, parts in pushes:
                self._work(run, decode(bytearray(b"".join(parts))), now)
            letters = run.letters.again()
            run.write_notes()
            run.sync()
            for event in run.letters.writes(letters):
                if self._write(event).type is EventType.ACK:
                    run.core.dead_letter_stored(lane_of(event["stream"]), event["sequence"])
        run.write_notes()

    def _work(self, run: Any, task: Event, now: float) -> None:
        for offset, line in enumerate(bytes(task.body).splitlines(), task["first"]):
            told = orjson.loads(line)
            number = told["payload"]["n"]
            self.said.received.add(number)
            if number in RETRIED and "of" not in told:
                run.core.retry(CONSUMER, task["lease"], offset, LATE_SECONDS, "Error: not now", now)
            elif number in GIVEN_UP and "dq-history" not in told.get("headers", {}):
                run.core.dead_letter(CONSUMER, task["lease"], offset, "bad", "Error: bad\nTraceback", now)
            else:
                run.core.ack(CONSUMER, task["lease"], ((offset, offset + 1),), now)

    def _replay(self) -> None:
        """As a user does it: published for its sink, then taken out; again from the start where that was interrupted."""
        if DEAD not in self.catalog.streams:
            return
        for offset, told in self.records(DEAD, 0).items():
            number = told["payload"]["n"]
            if number not in self.said.replayed:
                line = line_of(number, 2.5, headers={"dq-history": "[]"})
                self._store(STREAM, 0, Batch(f"r-{number}", 0, 1, line, (), True, {"for": SINK}))
                stream = self.catalog.streams[DEAD]
                self.catalog.keep_gone(stream, stream.gone.with_removed([{offset}]))
                self.said.replayed.add(number)

    # --- what is there -----------------------------------------------------------------------------------------------

    def records(self, name: str, bucket: int) -> dict[int, dict[str, Any]]:
        writer = self.catalog.streams[name].writers[bucket]
        reader = BucketReader(self.files, LAYOUT.bucket(name, bucket), SMALL)
        reader.advance(writer.end)
        lines = read_all(reader, 0, writer.end.offset).splitlines()
        reader.close()
        return {offset: orjson.loads(line) for offset, line in enumerate(lines)}

    def figures(self) -> dict[str, Any]:
        sinks = {run.name: {shard: (f.floor, f.end) for shard, f in run.core.stats().shards.items()} for run in self.sinks}
        return {"said": self.said, "later": self.laters.status(), "sinks": sinks, "errors": self.errors}

    def _is_done(self) -> bool:
        """Nothing waits, nothing is in hand, and nothing keeps a segment of any stream."""
        self._tell()
        run, later = self.sinks.runs.get(SINK), self.laters.status().get(STREAM, {})
        return (
            run is not None
            and len(self.said.replayed) == len(GIVEN_UP)
            and all(figures.floor == figures.end for figures in run.core.stats().shards.values())
            and later.get("waiting") == 0
            and self.laters.floors() == {(LATER, 0): self.catalog.streams[LATER].writers[0].end.offset}
        )


def check(disk: FaultyMemory, said: Said, clock: FakeClock) -> None:
    """Starts on what is left of a directory, goes on to the end, and counts."""
    life = Life(disk, copy.deepcopy(said), copy.copy(clock))
    assert litter(disk) == []
    life.play()
    assert life.said.received == {*PLAIN, *DELAYED, *RETRIED, *GIVEN_UP}
    again = Life(FaultyMemory.over(disk), life.said, life.clock)
    stored = [told["payload"]["n"] for bucket in (0, 1) for told in again.records(STREAM, bucket).values()]
    once = sorted((*PLAIN, *DELAYED, *RETRIED, *RETRIED, *GIVEN_UP, *GIVEN_UP))
    assert sorted(stored) == once, "each stands once, and once more where it was retried late or replayed"
    waited = [told["payload"]["n"] for told in again.records(LATER, 0).values()]
    assert sorted(waited) == sorted((*DELAYED, *RETRIED)), "each has waited once"
    assert sorted(told["payload"]["n"] for told in again.records(DEAD, 0).values()) == [*GIVEN_UP]
    assert again.catalog.streams[DEAD].gone.taken == len(GIVEN_UP)
    assert again._is_done(), "it is so after a restart too"


def new_life(seed: int) -> Life:
    files = FaultyMemory(random.Random(seed))
    files.add(ROOT, None)
    return Life(files, Said(), FakeClock())


def calls_of_a_run() -> int:
    life = new_life(0)
    before = life.files.calls.total()
    life.play()
    check(FaultyMemory.over(life.files), life.said, life.clock)
    assert life.errors == 0
    return life.files.calls.total() - before


def test_a_kill_before_any_call_costs_nothing_and_doubles_nothing(every_fault, capsys):
    """publish(delay=), the move, a retry over 60 s, a dead letter, its replay; killed there, and the power cut there twice."""
    count = calls_of_a_run()
    numbers = range(1, count + 1) if every_fault else sorted(random.Random().sample(range(1, count + 1), 15))
    for number in numbers:
        life, calls = new_life(number), 0

        def on_call(_: str, number: int = number) -> None:
            nonlocal calls
            calls += 1
            if calls >= number:
                raise Killed

        life.files.on_call = on_call
        with contextlib.suppress(Killed):
            life.play()
        life.files.on_call = lambda _: None
        chance = random.Random(number)
        for how, disk in (("killed", life.files.killed()), *(("cut", life.files.power_cut(chance)) for _ in range(2))):
            try:
                check(FaultyMemory.over(disk), life.said, life.clock)
            except Exception as error:
                raise AssertionError(f"{how} before call {number} of {count}: {type(error).__name__}: {error}") from error
    announce(
        capsys, f"\ndelays, dead letters and replays: killed before {len(numbers)} of {count} calls, and cut there twice\n"
    )
    assert count > 200


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
def test_a_call_that_fails_is_made_good_by_the_next_round_or_the_next_broker(code, every_fault, capsys):
    """A write on the way of them fails once: they wait, and go on."""
    runs = errors = 0
    for number in range(1, 10_000, 1 if every_fault else 9):
        life = new_life(number)
        before = life.files.calls["write_some"]
        life.files.fail_next("write_some", code, after=number - 1)
        with contextlib.suppress(LogError, DiskFull):  # of a broker that ends itself: the next one is asked
            life.play()
        runs, errors = runs + 1, errors + life.errors
        if life.files.calls["write_some"] < before + number:
            break
        try:
            check(FaultyMemory.over(life.files.killed()), life.said, life.clock)
        except Exception as error:
            raise AssertionError(f"write {number}: {type(error).__name__}: {error}") from error
    announce(capsys, f"\ndelays, dead letters and replays: {runs} runs, {errors} writes refused\n")
    assert runs > 3

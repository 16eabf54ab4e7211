"""What was promised to whom in a simulated world, and whether it is true: plain sets and dicts of places and numbers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from log_rig import read_all
from sim_delays import Delays, is_later_log
from sim_files import MemoryFiles
from sim_life import LAYOUT, SMALL
from sim_once import OnceKeys

from dq.client.drafts import Draft
from dq.core.states import State
from dq.errors import DiskFull, DqError, OutcomeUnknown, SequenceError, StreamReadOnly, UnknownSink, UnknownStream, by_name
from dq.log.catalog import OpenStream
from dq.log.reader import BucketReader
from dq.model.event import Event
from dq.model.names import LATER_SUFFIX

_LEASE = (b'{"lease":', b'{"deliver":')
_EXPIRED = (b'{"expire":', b'{"expired":')
_CUT = b'{"cut":'
_ACKS = ("ack", "drop")
_ENDS = ("ack", "drop", "dead_letter")
_NO_LEASE = 1 << 60


class Place(NamedTuple):
    stream: str
    bucket: int
    offset: int

    @property
    def shard(self) -> tuple[str, int]:
        return self.stream, self.bucket


class BrokenPromise(AssertionError):
    """dq did not do what it says."""


@dataclass
class Sink:
    """One sink as its consumers know it.

    Attributes:
        delivered: records that were in a consumer's hand, by number.
        decided: records that a consumer has settled, by number, confirmed or not.
        confirmed: those of them of which the confirmation came; they are never delivered again.
        volatile: those of `confirmed` that no flush has covered yet: a power cut may bring them back.
        age: how often its log or its streams may have lost their end. Leases given out before are forgotten then, and acks of
            them count for nothing.
        age_at_start: its age when its broker started.
        wants: its filter, by topic.
        no_ack: nothing is settled, and nothing comes twice; but where its log may have lost its end.
        noted: what it delivered without acks, and under which number.
        moving: changes that are under way, by which it begins anew somewhere: until they are answered, nothing is known of it.
        excused: records that it need not have had, since it was moved past them or was not there.
        voided: leases with lower numbers are void.
        paused: it was told to lease nothing.
    """

    max_attempts: int
    wants: Callable[[str | None], bool] = lambda _topic: True
    no_ack: bool = False
    noted: dict[Place, int] = field(default_factory=dict)
    delivered: set[int] = field(default_factory=set)
    decided: set[int] = field(default_factory=set)
    confirmed: set[Place] = field(default_factory=set)
    volatile: set[Place] = field(default_factory=set)
    may_lose: bool = False
    age: int = 0
    age_at_start: int = 0
    moving: int = 0
    excused: set[int] = field(default_factory=set)
    voided: int = 0
    paused: bool = False

    def begin_anew(self, next_lease: int | None, published: Iterable[int]) -> None:
        """It was moved, or made anew: what it had settled may come again, and what was published may be passed over."""
        self.confirmed.clear()
        self.volatile.clear()
        self.delivered.clear()
        self.noted.clear()
        self.excused.update(published)
        self.voided = _NO_LEASE if next_lease is None else next_lease
        self.age += 1
        self.age_at_start = self.age


@dataclass
class GivenUp:
    """What users gave up of streams: it need not be there, nor be delivered.

    Attributes:
        below: by shard, all up to there, by a trim.
        places: single records, by a removal.
        limited: streams that drop what is beyond their limits.
        changing: changes under way, by stream: until they are answered, nothing is known of it.
    """

    below: dict[tuple[str, int], int] = field(default_factory=dict)
    places: set[Place] = field(default_factory=set)
    limited: set[str] = field(default_factory=set)
    changing: Counter[str] = field(default_factory=Counter)

    def has(self, place: Place) -> bool:
        stream = place.stream
        below = self.below.get(place.shard, 0)
        return stream in self.limited or self.changing[stream] > 0 or place.offset < below or place in self.places

    def forget(self, stream: str) -> None:
        """The stream is no more."""
        self.below = {shard: offset for shard, offset in self.below.items() if shard[0] != stream}
        self.places = {place for place in self.places if place.stream != stream}


class Checker:
    """Hears of everything that passes and objects as soon as something cannot be.

    Attributes:
        counts: what happened, for the report.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.sinks: dict[str, Sink] = {}
        self.over: dict[str, list[str]] = {}  # stream -> sinks
        self.durabilities: dict[str, str] = {}
        self._lines: dict[int, bytes] = {}
        self._batches: dict[Draft, list[int]] = {}
        self._batch_of: dict[int, Draft] = {}
        self._publisher_of: dict[int, str] = {}
        self._receipts: dict[int, Place] = {}
        self._refused: set[int] = set()
        self.topics: dict[int, str | None] = {}
        self._stream_of: dict[int, str] = {}
        self.given_up = GivenUp()
        self._at: dict[Place, int] = {}
        self._where: dict[int, Place] = {}
        self._twice: set[int] = set()
        self._flushed: dict[tuple[str, int], int] = defaultdict(int)
        self._may_lose: set[tuple[str, int]] = set()
        self._gone: set[int] = set()
        self._passed: dict[Place, str] = {}  # unknown records that a reader passed over
        self.letters: Counter[tuple[str, str, int]] = Counter()
        self.delays = Delays(self, BrokenPromise)
        self.once = OnceKeys(self.delays, self.counts, BrokenPromise)
        self._written: dict[Path, float] = {}
        self._letters_unread: set[str] = set()  # streams whose dead letters cannot be read now

    # --- publishers ------------------------------------------------------------------------------------------------

    def asked(self, number: int, line: bytes, topic: str | None, publisher: str, stream: str, draft: Draft) -> None:
        """A record was handed in."""
        self.topics[number], self._stream_of[number] = topic, stream
        self.counts["records"] += 1
        self._lines[number], self._publisher_of[number], self._batch_of[number] = line, publisher, draft
        self._batches.setdefault(draft, []).append(number)

    def copied(self, number: int, topic: str | None, stream: str) -> None:
        """A record is tried again much later, as one of its own."""
        self.topics[number], self._stream_of[number] = topic, stream

    def came_again(self, number: int) -> None:
        """A record that was lost with the end of its stream is moved there once more."""
        self._gone.discard(number)

    def line_of(self, number: int) -> bytes | None:
        """The line of a record as it was published."""
        return self._lines.get(number)

    def stream_of(self, number: int) -> str:
        """For which stream a record is."""
        return self._stream_of[number]

    def receipt(self, number: int, place: Place, *, late: bool) -> None:
        """A publisher was told where its record is; `late`, by a broker that is not there any more."""
        if place.stream.endswith(LATER_SUFFIX):
            self.delays.receipt(number, place.stream, place.offset)
            return
        self.counts["receipts"] += 1
        if late and self.durabilities[place.stream] != "sync":
            return  # its durability allows that it was lost before this word arrived
        if number in self._gone and self.counts["streams destroyed"]:
            return  # it was given before its stream was destroyed
        self._receipts[number] = place
        if number in self.once:
            self.once.receipt(number, place, self._at.get(place))
        else:
            self._saw(place, number)

    def failed(self, numbers: list[int], error: DqError) -> None:
        """A publisher was told that a batch failed."""
        self.counts[type(error).__name__] += 1
        if isinstance(error, DiskFull):
            # One that was sent again after its window was over is refused as a new one, though it may have been stored before.
            self._refused.update(number for number in numbers if not self.once.is_forgotten(number))
        elif self.counts["streams destroyed"] and isinstance(error, (SequenceError, UnknownStream)):
            return
        elif isinstance(error, SequenceError) and self.counts["failed flushes of lossy streams"]:
            return  # what its publisher had receipts for is lost, as the durability allows, and leaves a gap
        elif not isinstance(error, (OutcomeUnknown, StreamReadOnly)) and type(error).__name__ != "BrokerLost":
            raise BrokenPromise(f"{numbers} were refused: {error!r}")

    def refused_to_join(self, event: Event, *, impatient: bool) -> None:
        """A client was not let in: only a disk that fails is a reason, a broker that was replaced meanwhile, or a connection
        of its own that it gave up and the broker still has."""
        error = by_name(event["error"], event["message"])
        self.counts["not let in"] += 1
        if isinstance(error, (UnknownSink, UnknownStream)) and (
            self.counts["sinks destroyed"] or self.counts["streams destroyed"]
        ):
            return
        if type(error).__name__ not in ("DiskFull", "LogError", "SyncFailed", "BrokerLost") and not impatient:
            raise BrokenPromise(f"a client was not let in: {error!r}")

    def _saw(self, place: Place, number: int) -> None:
        reader = self._passed.pop(place, None)
        if reader is not None and number not in self.delays.copies:
            raise BrokenPromise(f"{reader} passed over {place}, which is record {number}")
        self.once.saw(place, number)
        known = self._at.setdefault(place, number)
        if known != number:
            raise BrokenPromise(f"{place} was record {known} and is {number}")
        where = self._where.setdefault(number, place)
        if where != place and self.once.may_stand_twice(number):
            self.counts["once: again after its window"] += 1
            self._where[number] = place
            self._twice.add(number)
        elif where != place:
            raise BrokenPromise(f"record {number} is at {where} and at {place}")

    def _is_shaky(self, stream: str) -> bool:
        """Whether a stream may have lost records while leases of them were on their way, as its durability allows."""
        return self.durabilities[stream] != "sync" and self.counts["failed flushes of lossy streams"] > 0

    # --- consumers -------------------------------------------------------------------------------------------------

    def delivered(self, sink: str, place: Place, number: int, attempt: int) -> None:
        """A record is in the hand of a consumer."""
        found = self.sinks[sink]
        self.delays.check_use(number, sink)
        if number in self._gone:
            return  # it was sent before its stream lost it, or was destroyed
        if self.given_up.changing[place.stream]:
            found.delivered.add(number)
            return
        if not self._wants(sink, number):
            raise BrokenPromise(f"{place} with the topic {self.topics[number]} was delivered to {sink}")
        if not self._is_shaky(place.stream):
            self._saw(place, number)
        self.counts["delivered"] += 1
        self.counts["redelivered"] += number in found.delivered
        found.delivered.add(number)
        if attempt > found.max_attempts:
            raise BrokenPromise(f"{place} was delivered to {sink} as attempt {attempt} of {found.max_attempts}")

    def decided(self, sink: str, act: str, numbers: list[int]) -> None:
        """A consumer sends what it decided of these records."""
        if act in _ENDS:
            self.sinks[sink].decided.update(numbers)

    def confirmed(self, sink: str, act: str, numbers: list[int]) -> None:
        """The consumer broker has confirmed what a consumer decided. (A late wish for a dead letter is passed over.)"""
        found = self.sinks[sink]
        if act in _ACKS and not found.moving:
            # Of one that stands twice it is not known which of them was acked.
            places = [self._where[number] for number in numbers if number in self._where and number not in self._twice]
            new = [place for place in places if place not in found.confirmed and not self._is_shaky(place.stream)]
            found.confirmed.update(new)
            found.volatile.update(new)
            self.counts["confirmed"] += len(new)

    # --- the disk --------------------------------------------------------------------------------------------------

    def wrote(self, path: Path, content: bytes) -> None:
        """Notes go to the log of a sink before anything is sent: what is leased again shows here first."""
        self._written[path] = self.delays.clock.wall()
        if path.suffix != ".jsonl" or is_later_log(path):
            return
        if path.parent.parent != LAYOUT.sinks:
            self.delays.wrote(path, content)
            self.once.wrote(path, content)
            return
        found = self.sinks[path.parent.name]
        for line in content.split(b"\n"):
            if line.startswith(_CUT) and line.endswith(b"}"):
                note = orjson.loads(line)  # what its stream lost, others stand in the place of
                gone = [p for p in found.noted if p[:2] == (note["stream"], note["bucket"]) and p.offset >= note["cut"]]
                for place in gone:
                    del found.noted[place]
            if line.startswith(_EXPIRED) and line.endswith(b"}"):
                self._expired(path.parent.name, orjson.loads(line))
            if line.startswith(_LEASE) and line.endswith(b"}"):
                note = orjson.loads(line)
                if "deliver" in note:
                    self._delivers(path.parent.name, note)
                if found.paused:
                    raise BrokenPromise(f"{path.parent.name} leases though it is paused: {note}")
                if found.moving or self.given_up.changing[note["stream"]]:
                    continue
                for offset in range(note["first"], note["first"] + note["count"]):
                    place = Place(note["stream"], note["bucket"], offset)
                    if place in found.confirmed and not self._brought_back(found, place):
                        raise BrokenPromise(f"{path.parent.name}: {place} is leased again after its ack was confirmed")

    def written_at(self, path: Path) -> float:
        """When a file was written to, by the wall clock, as file systems keep it."""
        return self._written.get(path, 0.0) + 1.0  # whole seconds are kept here

    def _expired(self, name: str, note: dict[str, Any]) -> None:
        """Only what is of no use any more is passed over for that."""
        stream = note["stream"]
        if self.given_up.changing[stream] or self._is_shaky(stream):
            return
        for first, stop in note.get("ranges", note.get("expire", ())):
            for offset in range(first, stop):
                number = self._at.get(Place(stream, note["bucket"], offset))
                if number is not None and not self.delays.may_be_over(number):
                    raise BrokenPromise(f"{name} passed over {number} at {offset} of {stream}, which is of use still")

    def _delivers(self, name: str, note: dict[str, Any]) -> None:
        """What is delivered without acks is delivered once."""
        sink, passed = self.sinks[name], [range(*part) for part in note.get("without", ())]
        places = [
            Place(note["stream"], note["bucket"], offset) for offset in range(note["first"], note["first"] + note["count"])
        ]
        for place in places:
            if sink.noted.get(place, note["deliver"]) != note["deliver"] and not sink.moving:  # else it is written once more
                raise BrokenPromise(f"{place} is delivered to {name} twice, which takes no acks")
            if not any(place.offset in part for part in passed):
                self.counts["without acks"] += 1
                sink.noted[place] = note["deliver"]

    def _brought_back(self, sink: Sink, place: Place) -> bool:
        """Whether the ack of a record may be forgotten; then it is."""
        if not (sink.may_lose and place in sink.volatile):
            return False
        self.counts["acks brought back"] += 1
        sink.confirmed.discard(place)
        sink.volatile.discard(place)
        return True

    def flushed(self, path: Path) -> None:
        if path.suffix != ".jsonl" or is_later_log(path):
            return
        if path.parent.parent == LAYOUT.sinks:
            if not self.sinks[path.parent.name].may_lose:
                self.sinks[path.parent.name].volatile.clear()
        elif LAYOUT.streams in path.parents:
            stream, bucket = path.parts[-3], int(path.parts[-2])
            if (stream, bucket) in self._may_lose:
                return
            ends = [place.offset + 1 for place in self._at if place.shard == (stream, bucket)]
            self._flushed[stream, bucket] = max(ends, default=0)

    def flush_failed(self, path: Path) -> None:
        """What was not flushed before may be lost from now on: a flush that returns well after this one says nothing of it."""
        self.counts["failed flushes"] += 1
        if is_later_log(path):
            return
        if path.parent.parent == LAYOUT.sinks:
            self.sinks[path.parent.name].may_lose = True
            self.sinks[path.parent.name].age += 1
            self._unsure(self.sinks[path.parent.name])
        elif path.suffix == ".jsonl" and self.durabilities.get(path.parts[-3], "sync") != "sync":
            self._may_lose.add((path.parts[-3], int(path.parts[-2])))
            self.counts["failed flushes of lossy streams"] += 1

    def power_cut(self) -> None:
        self.counts["power cuts"] += 1
        for sink in self.sinks.values():
            sink.may_lose = True
            self._unsure(sink)
        for stream, durability in self.durabilities.items():
            if durability != "sync":
                self._may_lose.update((stream, bucket) for bucket in range(16))

    @staticmethod
    def _unsure(sink: Sink) -> None:
        """What is noted of deliveries without acks is not on disk at once."""
        sink.noted.clear()

    # --- what users do -----------------------------------------------------------------------------------------------

    def moved(self, name: str, next_lease: int | None) -> None:
        """A sink stands somewhere else, or is another one."""
        self.sinks[name].begin_anew(next_lease, [*self._lines, *self.delays.copies])

    def destroyed(self, stream: str) -> None:
        """A stream is no more, and another one will have its name."""
        self.delays.destroyed(stream)
        self.once.gone(stream)
        self._at = {place: number for place, number in self._at.items() if place.stream != stream}  # one may stand twice
        for number in [number for number, name in self._stream_of.items() if name == stream]:
            self._gone.add(number)
            self._receipts.pop(number, None)
            place = self._where.pop(number, None)
            if place is not None:
                self._at.pop(place, None)
        for shard in [shard for shard in self._flushed if shard[0] == stream]:
            del self._flushed[shard]
        for name in self.over[stream]:
            sink = self.sinks[name]
            sink.age += 1
            sink.confirmed = {place for place in sink.confirmed if place.stream != stream}
            sink.volatile &= sink.confirmed
            sink.noted = {place: lease for place, lease in sink.noted.items() if place.stream != stream}
        self._passed = {place: reader for place, reader in self._passed.items() if place.stream != stream}
        self.given_up.forget(stream)

    def where(self, number: int) -> Place | None:
        """Where a record is known to be."""
        return self._where.get(number)

    def places_of(self, stream: str) -> list[Place]:
        """Where records of a stream are known to be."""
        return sorted(place for place in self._at if place.stream == stream)

    def read(self, reader: str, place: Place, number: int, before: int | None, missed: bool) -> None:
        """A reader saw a record, and the one before it in its bucket was at the offset `before`."""
        self.counts["read"] += 1
        if number in self._gone or self.given_up.changing[place.stream] or self._is_shaky(place.stream):
            return
        self._saw(place, number)
        if before is None:
            return
        if place.offset <= before:
            raise BrokenPromise(f"{reader} read {place} after offset {before}")
        between = [Place(place.stream, place.bucket, offset) for offset in range(before + 1, place.offset)]
        # Readers do not see what is for one sink alone. Which record stood there may not be known yet.
        passed = [each for each in between if not self.given_up.has(each) and self._at.get(each) not in self.delays.copies]
        if self.durabilities[place.stream] == "sync":
            self._passed |= {each: reader for each in passed if each not in self._at and not missed}
        passed = [each for each in passed if each in self._at]
        if not missed and passed:
            raise BrokenPromise(f"{reader} read {place} after offset {before}, and passed over {passed}")

    # --- a broker has started --------------------------------------------------------------------------------------

    def consumer_broker_opened(self, runs: dict[str, Any], closed: dict[str, Any]) -> None:
        """Every confirmed ack is in its state, but for those that may be lost: they come again, and are counted."""
        for name, error in closed.items():
            if type(error).__name__ not in ("DiskFull", "LogError", "SyncFailed"):
                raise BrokenPromise(f"sink {name} is closed: {error!r}")
        for name, sink in self.sinks.items():
            if name in runs:
                sink.voided = min(sink.voided, runs[name].core._book.next_lease)
            if sink.moving:
                continue
            if name not in runs:
                if sink.confirmed - sink.volatile and name not in closed:
                    raise BrokenPromise(f"sink {name} is gone")
                continue
            ledgers = runs[name].core._book.ledgers
            for place in sorted(place for place in sink.confirmed if not self.given_up.changing[place.stream]):
                ledger = ledgers.get(place.shard)
                state = ledger.state_of(place.offset) if ledger is not None else State.WAITING
                if state not in (State.SETTLED, State.DYING) and not self._brought_back(sink, place):
                    raise BrokenPromise(f"{name}: the confirmed ack of {place} is forgotten")
            sink.may_lose = False
            sink.age_at_start = sink.age
            sink.volatile &= sink.confirmed

    def publisher_broker_opened(
        self, disk: MemoryFiles, streams: dict[str, OpenStream], errors: dict[str, Any], names: list[str]
    ) -> None:
        """What has a receipt is where the receipt says; what a stream may lose by its durability is lost from one place on."""
        for name, error in errors.items():
            if type(error).__name__ not in ("DiskFull", "LogError", "SyncFailed"):
                raise BrokenPromise(f"stream {name} is closed: {error!r}")
        # One that was being changed when it was opened is looked at now.
        names = [*names, *(shard[0] for shard in self._may_lose if not self.given_up.changing[shard[0]])]
        names = [name for name in self.durabilities if name in streams and name in names]
        for name in [name for name in names if not self.given_up.changing[name]]:
            for bucket, writer in enumerate(streams[name].writers):
                self._cut((name, bucket), writer.end.offset)
        self.check_logs(disk, streams)
        self._may_lose = {shard for shard in self._may_lose if shard[0] not in names or self.given_up.changing[shard[0]]}

    def unchanged(self, stream: str, ends: list[int]) -> None:
        """It was to be destroyed, and was not; it may have lost its end meanwhile, as its durability allows."""
        for bucket, end in enumerate(ends):
            self._cut((stream, bucket), end)
        self._may_lose = {shard for shard in self._may_lose if shard[0] != stream}

    def _cut(self, shard: tuple[str, int], end: int) -> None:
        lost = [place for place in self._at if place.shard == shard and place.offset >= end]
        if shard in self._may_lose:
            for name in self.over[shard[0]]:
                self.sinks[name].age += 1
        if shard in self._may_lose:
            self._receipts = {n: place for n, place in self._receipts.items() if place.shard != shard or place.offset < end}
            self.once.gone(*shard, end)
        if not lost:
            return
        if shard not in self._may_lose or min(lost).offset < self._flushed[shard]:
            raise BrokenPromise(f"{shard} ends at {end}: {len(lost)} records are lost, {self._flushed[shard]} were flushed")
        self.counts["records lost as allowed"] += len(lost)
        self._flushed[shard] = end
        for place in lost:
            number = self._at.pop(place)
            self._gone.add(number)
            self._where.pop(number, None)
            self._receipts.pop(number, None)
            for sink in self.sinks.values():
                sink.confirmed.discard(place)
                sink.volatile.discard(place)
                sink.noted.pop(place, None)

    # --- the logs --------------------------------------------------------------------------------------------------

    def check_logs(self, disk: MemoryFiles, streams: dict[str, OpenStream]) -> None:
        """Reads everything that is stored."""
        self.letters.clear()
        there = disk.list_directory(LAYOUT.streams)
        self._letters_unread = {name for name in self.durabilities if f"{name}-dlq" in there and f"{name}-dlq" not in streams}
        firsts: dict[tuple[str, int], int] = {}
        for name, stream in streams.items():
            for bucket, writer in enumerate(stream.writers):
                first, end = writer.stats().first_offset, writer.end
                reader = BucketReader(disk, LAYOUT.bucket(name, bucket), SMALL)
                reader.advance(end)
                lines = read_all(reader, first, end.offset).splitlines(keepends=True)
                if self.given_up.changing[name.removesuffix(LATER_SUFFIX)]:
                    continue
                if name.endswith(LATER_SUFFIX):
                    self.delays.check_receipts(name, end.offset)
                    self.delays.check_log(name, first, lines)
                elif name in self.durabilities:
                    firsts[name, bucket] = first
                    self._check_bucket(name, bucket, first, lines)
                else:
                    self._check_letters(lines)
        self._check_receipts(firsts, streams)
        self.once.check(self._where, self._keeps_keys)

    def _keeps_keys(self, stream: str) -> bool:
        """Whether all keys that count stand in the log of a stream: none was lost, nor trimmed by a user or a limit."""
        trimmed = stream in self.given_up.limited or any(shard[0] == stream for shard in self.given_up.below)
        return self.durabilities[stream] == "sync" and not trimmed and not self.given_up.changing[stream]

    def _check_bucket(self, name: str, bucket: int, first: int, lines: list[bytes]) -> None:
        latest: dict[str, int] = {}
        present: Counter[Draft] = Counter()
        for offset, line in enumerate(lines, first):
            number = self.delays.number_of(orjson.loads(line), name)
            delayed = number in self.delays
            expected = self.delays.expected(number) if delayed else self._lines.get(number)
            if expected != line and not (delayed and expected is None):
                raise BrokenPromise(f"{name}/{bucket}/{offset} is not what was published: {line!r}")
            self._saw(Place(name, bucket, offset), number)
            if delayed:
                continue
            publisher = self._publisher_of[number]
            if number in self.once:
                continue  # while keys are read, what has none goes ahead
            if number <= latest.get(publisher, 0):
                raise BrokenPromise(f"{name}/{bucket}: {publisher} published {number} before {latest[publisher]}")
            latest[publisher] = number
            present[self._batch_of[number]] += 1
        for draft, count in present.items():
            numbers = self._batches[draft]
            begins = self._where[numbers[-1]].offset - len(numbers) + 1 if numbers[-1] in self._where else first
            if count != len(numbers) and begins >= first:  # else the segment that it begins in was trimmed
                raise BrokenPromise(f"{name}/{bucket}: of the batch {numbers} there are {count} records")

    def _check_letters(self, lines: list[bytes]) -> None:
        for line in lines:
            fields = orjson.loads(line)
            headers = fields["headers"]
            number = self.delays.number_of(fields, headers["dq-id"].split("/")[0]) if fields.get("payload") else 0
            self.letters[headers["dq-sink"], headers["dq-id"], number] += 1
        twice = [
            letter for letter, count in self.letters.items() if count > 1 and letter[2] not in self.sinks[letter[0]].excused
        ]
        if twice:
            raise BrokenPromise(f"dead letters stand twice: {twice}")

    def _check_receipts(self, firsts: dict[tuple[str, int], int], streams: dict[str, OpenStream]) -> None:
        for number, place in self._receipts.items():
            if place.shard not in firsts:
                continue
            if place.offset >= streams[place.stream].writers[place.bucket].end.offset:
                raise BrokenPromise(f"record {number} had a receipt for {place} and is lost")
            if place.offset < firsts[place.shard] and place in self._at:
                for name in self.over[place.stream]:
                    self._check_over(name, place)

    def _check_over(self, name: str, place: Place) -> None:
        """A record that is trimmed was settled by this sink."""
        letter = (name, f"{place.stream}/{place.bucket}/{place.offset}", self._at[place])
        if self._is_free(name, place):
            return
        if (
            place.stream not in self._letters_unread
            and self._at[place] not in self.sinks[name].decided
            and letter not in self.letters
            and (name, letter[1], self._number_as_published(letter[2])) not in self.delays.copied
        ):
            raise BrokenPromise(f"{place} is trimmed, and {name} had not settled it")

    def _is_free(self, name: str, place: Place) -> bool:
        """Whether a record may go though this sink never had it."""
        sink, number = self.sinks[name], self._at[place]
        if self.given_up.has(place) or sink.no_ack or sink.moving or number in sink.excused:
            return True
        return not self._wants(name, number) or self.delays.may_be_over(number)

    def _wants(self, name: str, number: int) -> bool:
        return self.sinks[name].wants(self.topics.get(number)) and self.delays.is_for(number, name)

    # --- the end ---------------------------------------------------------------------------------------------------

    def check_end(self) -> None:
        """All is published and consumed: each record was in a hand of each sink, and each one given up is a dead letter."""
        for number, place in self._where.items():
            for name in self.over[place.stream]:
                letter = (
                    name,
                    f"{place.stream}/{place.bucket}/{place.offset}",
                    number,
                )  # its consumers died before they saw it
                if self._is_free(name, place):
                    continue
                if number not in self.sinks[name].delivered and letter not in self.letters:
                    raise BrokenPromise(f"{number} at {place} was never delivered to {name}")
                self._check_over(name, place)
        self.delays.check_end(self._where.__contains__, self._may_be_unseen)
        self.counts["dead letters"] += len(self.letters)

    def _number_as_published(self, number: int) -> int | None:
        return self.delays.copies[number].number if number in self.delays.copies else number

    def _may_be_unseen(self, number: int) -> bool:
        """Whether a record may have been stored and trimmed while nobody looked."""
        stream = self._stream_of[number]
        if stream in self.given_up.limited or any(shard[0] == stream for shard in self.given_up.below):
            return True
        if self.durabilities[stream] != "sync" and (self.counts["power cuts"] or self._is_shaky(stream)):
            return True
        sinks = [self.sinks[name] for name in self.over[stream] if self._wants(name, number)]
        return self.delays.may_be_over(number) or all(sink.no_ack or number in sink.excused for sink in sinks)

    def check_refused(self) -> None:
        """What was refused for want of room is not stored. (Before a power cut, which may bring back what was taken back.)"""
        back = self._refused & self._where.keys()
        if back and not self.counts["power cuts"]:
            raise BrokenPromise(f"{sorted(back)} were refused and are stored")

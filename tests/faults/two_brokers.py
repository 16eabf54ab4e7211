"""What both brokers do with the disk, in one thread over any `Files`, and an oracle that remembers what was confirmed.

A broker that a failing disk ends is started again, as its supervisor would, and the script goes on. So a run ends with all of
it done, or with a fault of dq.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import orjson
from faulty_memory import FaultyMemory
from log_rig import read_all

from dq.broker.opened import describe, undescribe
from dq.broker.sink_run import SinkRun
from dq.clock import FakeClock
from dq.config import LIMITS
from dq.errors import DiskFull, DqError, LogError, SequenceError, StreamReadOnly, SyncFailed
from dq.log.catalog import Catalog, OpenStream
from dq.log.directories import make_directory
from dq.log.layout import Layout
from dq.log.reader import BucketReader
from dq.log.retention import trim_offset
from dq.log.sink_file import SinkFile, make_sink
from dq.log.storage import Batch, StorageWriter
from dq.log.stream_file import read_stream
from dq.model.event import decode
from dq.model.settings import SinkSettings, StreamSettings

ROOT = Path("/q")
LAYOUT = Layout(ROOT)
STREAM, DEAD, SINK, CONSUMER, BUCKETS = "work", "work-dlq", "workers", "c-1", 2
SMALL = replace(LIMITS, sink_segment_bytes=2_000, reserve_bytes=32_768, reconnect_seconds=0.0)
STARTS_MAX = 3  # a broker that does not start is started again so often before the disk is healed
Place = tuple[int, int]


class Ended(Exception):
    """A broker has ended by itself; its supervisor starts it again."""


@dataclass
class Said:
    """What was told to somebody. It must be true from then on.

    Attributes:
        asked: every batch that was ever sent: (bucket, publisher, sequence) -> its records.
        receipts: the place that a record's publisher was told.
        received: records that were in the consumer's hand.
        acked: places whose ack was confirmed, in that order.
        flushed: how many of `acked` were on disk.
    """

    asked: dict[tuple[int, str, int], list[int]] = field(default_factory=dict)
    receipts: dict[int, Place] = field(default_factory=dict)
    received: set[int] = field(default_factory=set)
    acked: list[Place] = field(default_factory=list)
    flushed: int = 0

    def now(self) -> Said:
        """As it stands; it does not change any more."""
        return Said(dict(self.asked), dict(self.receipts), set(self.received), self.acked[:], self.flushed)


def line_of(number: int) -> bytes:
    return orjson.dumps({"at": 1.5, "payload": {"n": number, "pad": "x" * (400 + number % 7 * 60)}}) + b"\n"


def is_given_up(number: int) -> bool:
    return number % 9 == 4


def is_retried(number: int) -> bool:
    return number % 7 == 2


class Brokers:
    """The two brokers of one data directory, and the clients that use them.

    Args:
        files: the disk; it fails as the test wishes.
        said: what was confirmed to anybody before, and will be.
    """

    def __init__(self, files: FaultyMemory, said: Said) -> None:
        self.files, self.said, self.clock = files, said, FakeClock()
        self.queues: dict[tuple[int, str], list[tuple[int, list[int], bool]]] = {}
        self.sequences: Counter[tuple[int, str]] = Counter()
        self.errors: Counter[str] = Counter()
        self.deaths = 0  # of brokers that ended by themselves
        self.catalog: Catalog | None = None
        self.run: SinkRun | None = None
        self.unconfirmed: list[Place] = []
        self.floors: dict[tuple[str, int], int] = {}
        self.told: dict[tuple[str, int], int] = {}

    # --- starting, and starting again ------------------------------------------------------------------------------

    def start(self) -> None:
        self._start_publisher_broker()
        self._start_consumer_broker()

    def _again(self, start) -> None:  # type: ignore[no-untyped-def]
        """The supervisor: a start that fails is tried again; in the end the disk is well."""
        for attempt in range(STARTS_MAX + 2):
            self.files.new_life()
            if attempt >= STARTS_MAX:
                self.files.heal()
            try:
                start()
                return
            except (DqError, OSError) as error:
                self._note(error)
        raise AssertionError("it does not start on a healthy disk")

    def _note(self, error: BaseException) -> None:
        self.errors[type(error).__name__] += 1

    def _start_publisher_broker(self) -> None:
        self._again(self._open_catalog)
        if self.run is not None:
            self._tell_of_streams()
            self.resend_letters()

    def _publisher_broker_ended(self) -> None:
        self.deaths += 1
        self._start_publisher_broker()

    def lose_publisher_broker(self) -> None:
        """It is killed, and started again beside the consumer broker that lives."""
        self._start_publisher_broker()

    def _open_catalog(self) -> None:
        if self.catalog is not None:  # as a broker does that ends because of an error
            self.catalog.close(clean=False)
        make_directory(self.files, LAYOUT.streams)
        self.catalog = Catalog(self.files, ROOT, SMALL)
        self.catalog.open()
        for error in self.catalog.errors.values():
            self._note(error)
        if self.catalog.errors:
            raise next(iter(self.catalog.errors.values()))
        settings = StreamSettings(buckets=BUCKETS, segment_bytes=4_096, keep_seconds=0, keep_bytes=0)
        self._stream(STREAM, settings)
        for bucket, publisher in self.queues:
            self.queues[bucket, publisher] = [(seq, numbers, True) for seq, numbers, _ in self.queues[bucket, publisher]]

    def _stream(self, name: str, settings: StreamSettings) -> OpenStream:
        found = self.catalog.get(name)
        return self.catalog.create(name, settings) if found is None else found

    def _start_consumer_broker(self) -> None:
        self._again(self._open_sink)

    def _open_sink(self) -> None:
        if self.run is not None:
            run, self.run = self.run, None
            try:
                run.close()
            except DqError as error:
                self._note(error)
            self.files.new_life()
        self.unconfirmed = []
        make_directory(self.files, LAYOUT.sinks)
        settings = SinkSettings(max_attempts=3)
        if not self._exists(LAYOUT.sink_settings(SINK)):
            make_sink(self.files, ROOT, SINK, settings)
        self.run = SinkRun(ROOT, self.files, self.clock, SINK, SinkFile(settings), SMALL)
        for stream in self.run.shards.streams:
            self.run.shards.reopen(read_stream(self.files, ROOT, stream))
        self._send_letters()  # the first turn: nobody has said yet how far the streams are committed
        self._tell_of_streams()
        now = self.clock.monotonic()
        self.run.core.rejoin(CONSUMER, (), now)
        self.run.core.grant(CONSUMER, 4)
        self.run.write_notes()

    def _sink_lost(self, error: DqError) -> None:
        """The consumer broker ends; a failed flush may bring back what was acked since the last one."""
        if isinstance(error, SyncFailed):
            del self.said.acked[self.said.flushed :]
        self.deaths += 1
        self._start_consumer_broker()

    def _exists(self, path: Path) -> bool:
        try:
            self.files.state(path)
        except FileNotFoundError:
            return False
        return True

    def _tell_of_streams(self) -> None:
        """The pipe between the brokers is new: all ends are said, and the consumer broker's words are said once more."""
        for name in (STREAM,):
            stream = self.catalog.get(name)
            if stream is not None:
                self.run.shards.open(*undescribe(describe(stream)))
        self.told.clear()
        self.run.unsynced = True

    # --- publishing --------------------------------------------------------------------------------------------------

    def publish(self, bucket: int, publisher: str, numbers: Sequence[int]) -> None:
        sequence = self.sequences[bucket, publisher]
        self.sequences[bucket, publisher] += 1
        self.said.asked[bucket, publisher, sequence] = list(numbers)
        self.queues.setdefault((bucket, publisher), []).append((sequence, list(numbers), False))

    def commit(self) -> None:
        """A turn of the publisher broker: all that waits, in one commit a bucket."""
        try:
            self._commit()
        except Ended:
            self._publisher_broker_ended()
            try:
                self._commit()  # sent again
            except Ended:
                self._publisher_broker_ended()

    def _commit(self) -> None:
        writers = self.catalog.streams[STREAM].writers
        staged: dict[int, list[tuple[str, int, list[int], int]]] = {}
        for (bucket, publisher), waiting in self.queues.items():
            for sequence, numbers, again in waiting:
                batch = Batch(publisher, sequence, len(numbers), b"".join(map(line_of, numbers)), (), again)
                stored = self._append(writers[bucket], batch)
                staged.setdefault(bucket, []).append((publisher, sequence, numbers, stored.first))
        failed = False
        for bucket, batches in staged.items():
            try:
                self._commit_one(writers[bucket], bucket, batches)
            except (SyncFailed, StreamReadOnly) as error:
                self._note(error)
                failed = True
        if failed:
            raise Ended

    def _append(self, writer: StorageWriter, batch: Batch):  # type: ignore[no-untyped-def]
        try:
            return writer.append(batch)
        except StreamReadOnly as error:
            self._note(error)
            raise Ended from error

    def _commit_one(self, writer: StorageWriter, bucket: int, batches: list[tuple[str, int, list[int], int]]) -> None:
        try:
            end = writer.commit()
        except DiskFull as error:
            self._note(error)
            return
        for publisher, sequence, numbers, first in batches:
            waiting = self.queues[bucket, publisher]
            assert waiting.pop(0)[0] == sequence
            self.said.receipts.update((number, (bucket, first + n)) for n, number in enumerate(numbers))
        if self.run is not None:
            self.run.shards.committed((STREAM, bucket), end)

    def publish_again(self, bucket: int, publisher: str) -> None:
        """The last batch of a publisher that was answered comes a second time: it is known by its number."""
        writer = self.catalog.streams[STREAM].writers[bucket]
        for sequence in range(self.sequences[bucket, publisher] - 1, -1, -1):
            numbers = self.said.asked[bucket, publisher, sequence]
            if numbers[0] in self.said.receipts:
                lines = b"".join(map(line_of, numbers))
                stored = writer.append(Batch(publisher, sequence, len(numbers), lines, (), True))
                assert (stored.duplicate, (bucket, stored.first)) == (True, self.said.receipts[numbers[0]])
                return

    # --- consuming ---------------------------------------------------------------------------------------------------

    def consume(self) -> None:
        """A turn of the consumer broker, and what its consumer says then."""
        try:
            pushes, _ = self.run.dispatch(self.clock.monotonic())
            intents = self.run.letters.due()
            self.run.write_notes()
            if intents:
                self._sync_sink()
            letters = self.run.letters.writes(intents)
        except (LogError, DiskFull) as error:
            self._note(error)
            self._sink_lost(error)
            return
        self.said.acked += self.unconfirmed
        self.unconfirmed = []
        self._store(letters)
        for _, parts in pushes:
            self._work(decode(bytearray(b"".join(parts))))
        self.run.core.grant(CONSUMER, 4)
        self.clock.advance(0.1)
        self.run.core.expire(self.clock.monotonic())

    def _work(self, task) -> None:  # type: ignore[no-untyped-def]
        core, now, lease, bucket = self.run.core, self.clock.monotonic(), task["lease"], task["bucket"]
        attempts = task.fields.get("attempts", {})
        for offset, line in enumerate(bytes(task.body).splitlines(), task["first"]):
            number = orjson.loads(line)["payload"]["n"]
            self.said.received.add(number)
            assert (bucket, offset) not in self.said.acked, f"{number} came again after its ack was confirmed"
            if is_given_up(number):
                core.dead_letter(CONSUMER, lease, offset, "bad", "", now)
            elif is_retried(number) and not attempts.get(str(offset), attempts.get(offset)):
                core.retry(CONSUMER, lease, offset, 0.0, "once", now)
            else:
                core.ack(CONSUMER, lease, ((offset, offset + 1),), now)
                self.unconfirmed.append((bucket, offset))

    def _sync_sink(self) -> None:
        count = len(self.said.acked)
        self.run.sync()
        self.said.flushed = count

    def _send_letters(self) -> None:
        self._store(self.run.letters.writes(self.run.letters.due()))

    def _store(self, letters) -> None:  # type: ignore[no-untyped-def]
        """Dead letters on their way through the manager to the publisher broker, and its answers back."""
        for letter in letters:
            try:
                stream = self._stream(letter["stream"], StreamSettings())
                stream.writers[0].append(Batch(letter["publisher"], letter["sequence"], 1, letter.body))
                stream.writers[0].commit()
            except (SyncFailed, StreamReadOnly) as error:
                self._note(error)
                self._publisher_broker_ended()
                return
            except (DiskFull, LogError, SequenceError) as error:  # SequenceError: the one before it was not taken
                self._note(error)
                return
            self.run.core.dead_letter_stored(STREAM, letter["sequence"])

    def resend_letters(self) -> None:
        self._store(self.run.letters.writes(self.run.letters.again()))

    # --- every second ------------------------------------------------------------------------------------------------

    def sync_and_trim(self) -> None:
        floors = self.run.core.floors()
        try:
            self._sync_sink()
        except LogError as error:
            self._note(error)
            self._sink_lost(error)
            return
        for shard, floor in floors.items():
            if self.told.get(shard, 0) < floor:
                self.told[shard] = self.floors[shard] = floor
        try:
            self._trim()
        except SyncFailed as error:
            self._note(error)
            self._publisher_broker_ended()
        except LogError as error:  # it could not be deleted, and can be the next time
            self._note(error)

    def _trim(self) -> None:
        for bucket, writer in enumerate(self.catalog.streams[STREAM].writers):
            floor = self.floors.get((STREAM, bucket), 0)
            if floor and len(segments := writer.segments()) > 1:
                offset, _ = trim_offset(segments, floor, 0.0, 0, self.clock.wall())
                if offset:
                    writer.trim(offset)

    # --- the end -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """A clean stop of both; a disk that does not take it leaves an unclean one."""
        for act in (lambda: self.catalog.close(clean=True), self.run.close):
            try:
                act()
            except DqError as error:
                self._note(error)
                if isinstance(error, SyncFailed) and act == self.run.close:  # it may bring back what was acked since the last
                    del self.said.acked[self.said.flushed :]
        self.catalog = self.run = None
        self.files.new_life()

    @property
    def waiting(self) -> int:
        """Batches that are not answered yet."""
        return sum(map(len, self.queues.values()))

    def finish(self) -> None:
        """The disk is well: all that waits is published, consumed and settled without anybody's help."""
        self.files.heal()
        for _ in range(200):
            self.commit()
            self.consume()
            self.resend_letters()
            figures = self.run.core.stats().shards
            if not self.waiting and not self.run.shards.damaged and all(f.floor == f.end for f in figures.values()):
                break
            if self.run.shards.damaged:  # a disk that fails to read closes the bucket for this sink until the next start
                self._start_consumer_broker()
        else:
            raise AssertionError(f"it does not come to its end: {self.waiting} batches wait, {figures}")
        self.consume()

    # --- what is there -----------------------------------------------------------------------------------------------

    def stored(self) -> dict[Place, int]:
        """Which record stands where, as a reader sees it."""
        return {(bucket, offset): n for bucket in range(BUCKETS) for offset, n in self._read(STREAM, bucket).items()}

    def dead_letters(self) -> list[int]:
        """The records of the stream of dead letters, in order."""
        return list(self._read(DEAD, 0).values()) if DEAD in self.catalog.streams else []

    def _read(self, name: str, bucket: int) -> dict[int, int]:
        writer = self.catalog.streams[name].writers[bucket]
        reader = BucketReader(self.files, LAYOUT.bucket(name, bucket), SMALL)
        reader.advance(writer.end)
        first = writer.stats().first_offset
        lines = read_all(reader, first, writer.end.offset).splitlines()
        return {offset: orjson.loads(line)["payload"]["n"] for offset, line in enumerate(lines, first)}

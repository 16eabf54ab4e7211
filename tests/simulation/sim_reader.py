"""A reader of a simulated world: the real `ReaderCore`, over the wires and the disk of the world."""

from __future__ import annotations

from sim_checker import Place
from sim_clients import SimClient, Stage
from sim_files import DirectoryNode, MemoryFiles
from sim_life import LAYOUT, SMALL

from dq.client.bucket_cursor import Filter
from dq.client.reader_core import ReaderCore
from dq.client.reader_stream import Told
from dq.core.matching import Matcher
from dq.errors import Damaged, DqError, LogError, RecordsTrimmed
from dq.log.reader import BucketReader
from dq.model.event import Event, EventOwner, EventType
from dq.model.settings import StreamSettings
from dq.model.start import Start, parse_start


class SimShelf:
    """Where its logs are, as `client.reader_stream.Shelf` says it."""

    def __init__(self, root: DirectoryNode) -> None:
        self._files, self.wanted = MemoryFiles(root), Filter(Matcher(), None)

    def log(self, stream: str, bucket: int, settings: StreamSettings) -> BucketReader:
        return BucketReader(self._files, LAYOUT.bucket(stream, bucket), SMALL)

    @staticmethod
    def choose(_stream: str, buckets: int) -> list[int]:
        return list(range(buckets))

    def place(self, stream: str) -> str:
        return str(LAYOUT.stream(stream))


class SimReader(SimClient):
    """A reader of all streams.

    Args:
        position: where it goes on; empty for the oldest record of each stream.
    """

    def __init__(self, stage: Stage, position: str = "", seen: dict[tuple[str, int], int] | None = None) -> None:
        self.core = ReaderCore(SimShelf(stage.manager.machine.root))  # type: ignore[arg-type]
        start = parse_start(position or "oldest")
        self._starts: dict[str, Start] = dict.fromkeys(stage.streams, start)
        self.seen: dict[tuple[str, int], int] = seen or {}  # the last offset, by shard
        self._uuids: dict[str, str] = {}
        self._missed: set[tuple[str, int]] = set()
        self._number = 0
        self._asks = False
        super().__init__(stage, stage.next_name("r"))

    def hello(self, *, again: bool) -> Event:
        fields = {"id": self.id, "pid": 1, "streams": list(self._starts), "again": again}
        return Event(EventType.REGISTER, EventOwner.READER, fields)

    def welcomed(self, answer: Event, *, again: bool) -> None:
        self._asks = False
        self._tell([Told.by_broker(opened) for opened in answer["result"]["streams"]])

    def _tell(self, tolds: list[Told]) -> None:
        for told in tolds:
            if self._uuids.setdefault(told.name, told.uuid) != told.uuid:
                self._uuids[told.name] = told.uuid
                self._forget(told.name)
            stream = self.core.streams.get(told.name)
            anew = stream is not None and any(cursor.epoch != told.epoch for cursor in stream.cursors)
            if anew and told.settings.durability != "sync":
                self._forget(told.name)
            for bucket, first in enumerate(told.firsts):
                if first > self.seen.get((told.name, bucket), -1) + 1:
                    self._missed.add((told.name, bucket))  # its log begins behind the place at which it stands
        self.core.tell(tolds, self._starts)

    def _forget(self, stream: str) -> None:
        self.seen = {shard: offset for shard, offset in self.seen.items() if shard[0] != stream}

    def handle(self, event: Event) -> None:
        assert event.type is EventType.COMMITTED, event
        self._asks = False
        self._tell([Told.by_broker(opened) for opened in event.get("opened", ())])
        self.core.committed(event["ends"])

    def tick(self) -> None:
        if not self._asks:
            self._asks, self._number = True, self._number + 1
            fields = {"credit": self.stage.chance.choice((0, 1)), "number": self._number}
            self.send(Event(EventType.READ, EventOwner.READER, fields).line())
        if self.core.ready and self.stage.chance.random() < 0.7:
            self._take_records()

    def _take_records(self) -> None:
        checker = self.stage.checker
        try:
            records = self.core.records(self.stage.chance.choice((1, 3, 50)))
        except RecordsTrimmed:
            checker.counts["reader missed records"] += 1
            self._missed.update(
                (cursor.stream, cursor.bucket) for stream in self.core.streams.values() for cursor in stream.cursors
            )
            return
        except LogError as error:
            self._on_error(error)
            return
        for record in records:
            place = Place(record.stream, record.bucket, record.offset)
            missed = place.shard in self._missed
            self._missed.discard(place.shard)
            number = checker.delays.number_of(record._fields, record.stream)
            checker.read(self.id, place, number, self.seen.get(place.shard), missed)
            self.seen[place.shard] = record.offset

    def _on_error(self, error: DqError) -> None:
        """Files may go from under it while it is not told yet; a real one tells its user, who tries again."""
        self.stage.checker.counts[f"reader {type(error).__name__}"] += 1
        if isinstance(error, Damaged) and self.stage.checker.counts["streams destroyed"]:
            self.die()  # a position of a stream that was made anew may not fit it; its user has to say where it goes on

    def again(self) -> SimReader:
        """The process ends, and another one goes on from its position."""
        position, seen = self.core.position(), self.seen
        self.die()
        return SimReader(
            self.stage, position if self.core.streams.keys() == self._starts.keys() else "", seen if position else None
        )

    @property
    def at_end(self) -> bool:
        """Whether it has read all that is committed."""
        service = self.stage.manager.publisher_broker.service
        if service is None:
            return False
        streams = service._catalog.streams
        return all(
            name in streams and cursor.offset >= streams[name].writers[cursor.bucket].end.offset
            for name, stream in self.core.streams.items()
            for cursor in stream.cursors
        )

"""What goes of the streams, and when: by what users trim and remove, by limits, by age, and once every sink is through.

Each bucket has a mark, the first offset that may still be read. It is raised first, on disk where it cannot be computed
anew; then it is told; then the segments that lie wholly below it are unlinked, oldest first, but never the active one. A kill
in between leaves segments that the next start unlinks.
"""

from __future__ import annotations

import logging
import math
import re
from collections import deque
from collections.abc import Collection, Sequence

from dq.broker.life import Life
from dq.broker.lifespans import Lifespans
from dq.broker.notices import Notices
from dq.errors import DiskFull, DqError, InvalidSetting, LogError, SyncFailed
from dq.log.backend import End, StorageReader, StorageWriter
from dq.log.catalog import Catalog, OpenStream
from dq.log.retention import SegmentStats, trim_offset
from dq.model.settings import MEMORY
from dq.model.told import about, words_of

log = logging.getLogger("dq")
_AT = re.compile(rb'\{"at":([0-9]{1,12}(?:\.[0-9]{1,9})?),')
_AT_BYTES = 40


class _Limited:
    """A stream that has limits, and what is known for them by bucket."""

    __slots__ = ("due", "readers", "segments", "share", "stream")

    def __init__(self, stream: OpenStream) -> None:
        self.stream = stream
        most, buckets = stream.settings.max_records, len(stream.writers)
        self.share = None if most is None else share_of(most, buckets)
        self.segments = [writer.end.segment for writer in stream.writers]
        # The wall time at which the first record that can be read is too old; not before the time of the next look.
        self.due = [0.0 if stream.settings.max_age is not None else math.inf] * buckets
        self.readers: dict[int, StorageReader] = {}

    def reader(self, catalog: Catalog, bucket: int) -> StorageReader:
        """The reading side of a bucket, which is kept."""
        if bucket not in self.readers:
            self.readers[bucket] = catalog.reader(self.stream, bucket)
        return self.readers[bucket]

    def close(self) -> None:
        """Closes what it reads."""
        for reader in self.readers.values():
            reader.close()


def _made(reader: StorageReader, offset: int) -> float:
    """When a record was made: a little before its batch was stored. 0 where it does not say."""
    found = _AT.match(bytes(reader.read(offset, 1, 1).parts[0][:_AT_BYTES]))
    return float(found[1]) if found is not None else 0.0


def share_of(records: int, buckets: int) -> int:
    """How many records one bucket keeps of so many of the stream: an equal share, rounded up."""
    return -(-records // buckets)


class Trimming:
    """Knows what is to go, and lets it go.

    Args:
        life: of the process.
        catalog: the streams.
        notices: by which the other broker hears of it.
    """

    def __init__(self, life: Life, catalog: Catalog, notices: Notices) -> None:
        self._life, self._catalog, self._notices = life, catalog, notices
        self._clock, self._limits = life.clock, life.limits
        self._limited: dict[str, _Limited] = {}
        self._aging: deque[_Limited] = deque()
        self._lives = Lifespans(life.clock)
        self._floors: dict[str, dict[int, int]] = {}  # by stream and bucket: every sink has settled what is below
        self._stale: dict[str, None] = {}  # to be looked at in this turn
        self._withheld: dict[str, None] = {}  # to be looked at again with what is settled
        self._moved: dict[str, None] = {}  # to be looked at with the next look
        self._look_at = self._settled_at = 0.0
        self._looked = (life.clock.monotonic(), life.clock.wall())

    # --- what there is ---------------------------------------------------------------------------------------------

    def opened(self, stream: OpenStream) -> None:
        """A stream is there, with the marks that were kept; those of its limits are computed."""
        self.forget(stream.name)
        self._lives.opened(stream)
        if any(stream.marks):
            self._stale[stream.name] = None
        if stream.settings.retention == "limits":
            limited = self._limited[stream.name] = _Limited(stream)
            if stream.settings.max_age is not None:
                self._aging.append(limited)
            for bucket, writer in enumerate(stream.writers):
                self._count(limited, bucket, writer.end.offset)
            self._stale[stream.name] = None

    def forget(self, name: str) -> None:
        """A stream is no more."""
        self._floors.pop(name, None)
        self._stale.pop(name, None)
        self._moved.pop(name, None)
        self._withheld.pop(name, None)
        limited = self._limited.pop(name, None)
        if limited is not None and limited in self._aging:
            self._aging.remove(limited)
            limited.close()
        self._lives.forget(name)

    # --- a commit --------------------------------------------------------------------------------------------------

    def committed(self, stream: OpenStream, bucket: int, end: End) -> None:
        """A bucket has grown. Costs the same for any length, and next to nothing for a stream without limits."""
        self._lives.wrote(stream.name)
        limited = self._limited.get(stream.name)
        if limited is None:
            return
        self._count(limited, bucket, end.offset)
        if limited.due[bucket] == math.inf and stream.settings.max_age is not None:
            limited.due[bucket] = self._clock.wall() + stream.settings.max_age
        if limited.segments[bucket] != end.segment:
            limited.segments[bucket] = end.segment
            self._stale[stream.name] = None

    def _count(self, limited: _Limited, bucket: int, end: int) -> None:
        if limited.share is not None and end - limited.share > limited.stream.marks[bucket]:
            self._raise(limited.stream, bucket, end - limited.share)

    def _raise(self, stream: OpenStream, bucket: int, mark: int) -> None:
        """A limit has been reached. Its mark is not written: it follows from the settings and from what there is."""
        if mark > stream.marks[bucket]:
            stream.marks[bucket] = mark
            self._moved[stream.name] = None
            self._notices.moved(stream)

    # --- by the wish of a user -------------------------------------------------------------------------------------

    def trim(self, stream: OpenStream, marks: Sequence[int]) -> int:
        """Gives up what lies below these offsets, by bucket; returns how many records that were.

        Raises:
            DiskFull, SyncFailed: as `write_gone`; nothing has changed.
        """
        kept, lost = list(stream.gone.marks), 0
        for bucket, (first, writer) in enumerate(zip(stream.firsts(), stream.writers, strict=True)):
            mark = min(marks[bucket], writer.end.offset)
            if mark > first:
                removed = stream.gone.count(bucket, first) - stream.gone.count(bucket, mark)
                kept[bucket], lost = mark, lost + mark - first - removed
        if kept != list(stream.gone.marks):
            self._catalog.keep_gone(stream, stream.gone.with_trim(kept, lost))
            self._notices.changed(stream)
            self._stale[stream.name] = None
        return lost

    def remove(self, stream: OpenStream, offsets: Sequence[Collection[int]]) -> int:
        """Takes records out of a stream, by bucket; returns how many of them were there.

        Raises:
            InvalidSetting: too much was taken out already, here and there. DiskFull, SyncFailed: as `write_gone`.
        """
        firsts, ends = stream.firsts(), [writer.end.offset for writer in stream.writers]
        new = [
            {offset for offset in each if firsts[bucket] <= offset < ends[bucket] and not stream.gone.has(bucket, offset)}
            for bucket, each in enumerate(offsets)
        ]
        if not any(new):
            return 0
        gone = stream.gone.from_firsts(firsts).with_removed(new)
        if gone.ranges > self._limits.removed_ranges_max:
            raise InvalidSetting(
                f"stream {stream.name!r} would have {gone.ranges:,} gaps of removed records, and "
                f"{self._limits.removed_ranges_max:,} are the most: trim it, so that the oldest of them go, or filter by topic"
            )
        self._catalog.keep_gone(stream, gone)
        self._notices.changed(stream)
        return sum(map(len, new))

    # --- by the sinks ----------------------------------------------------------------------------------------------

    def settled(self, name: str, bucket: int, offset: int, uuid: str | None) -> None:
        """Every sink has settled what is below an offset of a bucket; 0: nothing, or there is none."""
        stream = self._catalog.streams.get(name)
        if stream is None or (uuid is not None and uuid != stream.uuid):
            return  # it was said of a stream that is no more
        self._floors.setdefault(name, {})[bucket] = offset
        self._stale[name] = None

    # --- a turn ----------------------------------------------------------------------------------------------------

    @property
    def due(self) -> float | None:
        """When `run_due` is to be called, in monotonic seconds; None: not before something happens."""
        if self._stale:
            return 0.0
        if self._aging or self._lives or self._moved:
            return self._look_at
        return self._settled_at if self._floors or self._withheld else None

    def run_due(self) -> list[str]:
        """Lets go what is to go; returns the names of the streams whose time is over."""
        if not (self._stale or self._floors or self._withheld or self._aging or self._lives or self._moved):
            return []
        now, over = self._clock.monotonic(), list[str]()
        if (self._floors or self._withheld) and now >= self._settled_at:
            self._settled_at = now + self._limits.trim_seconds
            self._stale |= dict.fromkeys(self._floors) | self._withheld
            self._withheld.clear()
        if now >= self._look_at and (self._aging or self._lives or self._moved):
            self._look_at = now + self._limits.look_seconds
            over = self._look(now)
        stale, self._stale = self._stale, {}
        for name in stale:
            self._unlink(name)
        return over

    def _look(self, now: float) -> list[str]:
        wall, (then, wall_then) = self._clock.wall(), self._looked
        self._looked = (now, wall)
        leap = (wall - wall_then) - (now - then)
        if leap > self._limits.clock_jump_seconds:
            log.warning("the wall clock has leapt ahead by %.0f s: nothing is dropped for its age at this look", leap)
            return []
        self._by_age(wall, now)
        if self._moved:
            self._notices.urgent = True
            self._stale |= self._moved
            self._moved.clear()
        return self._lives.over()

    # --- by age ----------------------------------------------------------------------------------------------------

    def _by_age(self, wall: float, begun: float) -> None:
        """Raises the marks of buckets whose first record has become too old; as many buckets as one turn has time for."""
        for _ in range(len(self._aging)):
            limited = self._aging[0]
            for bucket, due in enumerate(limited.due):
                if due > wall:
                    continue
                if self._clock.monotonic() - begun > self._limits.look_seconds_max:
                    self._look_at = begun  # the rest in the next turn
                    return
                self._age(limited, bucket, wall)
            self._aging.rotate(-1)

    def _age(self, limited: _Limited, bucket: int, wall: float) -> None:
        stream, age = limited.stream, limited.stream.settings.max_age or 0.0
        end = stream.writers[bucket].end
        try:
            reader = limited.reader(self._catalog, bucket)
            reader.advance(end)
            self._raise(stream, bucket, reader.find(wall - age))
            first = stream.firsts()[bucket]
            made = _made(reader, first) if first < end.offset else math.inf
        except DqError as error:  # whoever reads it is told of it; here it only stays
            extra = about(error, stream=stream.name, bucket=bucket)
            log.warning(
                "how old the records of %s/%d are cannot be seen: %s", stream.name, bucket, words_of(error), extra=extra
            )
            limited.due[bucket] = wall + self._limits.trim_seconds
            return
        limited.due[bucket] = made if made == math.inf else max(min(made, wall) + age, wall + self._limits.look_seconds / 2)

    # --- unlinking -------------------------------------------------------------------------------------------------

    def _unlink(self, name: str) -> None:
        stream = self._catalog.streams.get(name)
        if stream is None:
            return
        try:
            gone = self._unlink_marked(stream)
            if stream.settings.retention == "settled" and name in self._floors:
                gone |= self._unlink_settled(stream, self._floors[name])
            if gone and stream.gone.ranges:
                self._prune(stream)
        except LogError as error:
            log.error("stream %s cannot be trimmed now: %s", name, words_of(error), extra=about(error, stream=name))
            if isinstance(error, SyncFailed):
                self._life.fail(error)

    def _unlink_marked(self, stream: OpenStream) -> bool:
        """What lies below the marks."""
        if stream.settings.max_bytes is not None:
            self._by_bytes(stream, stream.settings.max_bytes)
        cut = [self._cut(stream, bucket, mark) for bucket, mark in enumerate(stream.marks) if mark]
        return any(cut)

    def _by_bytes(self, stream: OpenStream, most: int) -> None:
        """Raises marks until the rest fits: by the segment, and the one that was written first goes first."""
        over = sum(writer.stats().bytes for writer in stream.writers) - most
        if over <= 0:
            return
        waiting: list[tuple[float, int, SegmentStats]] = []
        for bucket, writer in enumerate(stream.writers):
            waiting += [(segment.written, bucket, segment) for segment in writer.segments()[:-1]]
        for _, bucket, segment in sorted(waiting):
            if over <= 0:
                break
            self._raise(stream, bucket, segment.end)
            over -= segment.bytes

    def _unlink_settled(self, stream: OpenStream, floors: dict[int, int]) -> bool:
        """What every sink has settled and the stream's settings do not keep."""
        gone, settings = False, stream.settings
        over = sum(writer.stats().bytes for writer in stream.writers) - settings.keep_bytes
        keep_seconds = 0.0 if settings.backend == MEMORY else settings.keep_seconds
        for bucket, writer in enumerate(stream.writers):
            floor = min(floors.get(bucket, 0), writer.end.offset)
            if floor and len(segments := writer.segments()) > 1:
                offset, freed = trim_offset(segments, floor, keep_seconds, over, self._clock.wall())
                over -= freed
                gone |= bool(offset) and self._cut(stream, bucket, offset)
        return gone

    def _cut(self, stream: OpenStream, bucket: int, offset: int) -> bool:
        writer = stream.writers[bucket]
        if stream.described.once:
            offset = self._without_keys(stream, writer, offset)
        before = writer.stats()
        if not writer.trim(offset):
            return False
        after = writer.stats()
        freed = before.bytes - after.bytes
        extra = about(stream=stream.name, bucket=bucket)
        log.info(
            "stream %s/%d begins at offset %d now: %d bytes came back",
            stream.name,
            bucket,
            after.first_offset,
            freed,
            extra=extra,
        )
        return True

    def _without_keys(self, stream: OpenStream, writer: StorageWriter, offset: int) -> int:
        """Up to where a bucket may be trimmed now, as keys for `once` stand in the log for their window; tried again later."""
        since = self._clock.wall() - stream.settings.once_seconds
        for segment in writer.segments()[:-1]:
            if segment.end > offset:
                break
            if segment.written >= since:
                self._withheld[stream.name] = None
                return segment.first
        return offset

    def _prune(self, stream: OpenStream) -> None:
        """Forgets the removed records that are not on disk any more. Where that finds no room, it waits for the next time."""
        pruned = stream.gone.from_firsts(stream.firsts())
        if pruned != stream.gone:
            try:
                self._catalog.keep_gone(stream, pruned)
            except DiskFull as error:
                log.info("%s", words_of(error), extra=about(error, stream=stream.name))

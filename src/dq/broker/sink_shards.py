"""The shards of one sink: which logs it reads and how far they are, and what becomes of its cursors with their streams."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from dq.config import Limits
from dq.core.ranges import Range
from dq.core.sink import ShardStart, SinkCore
from dq.errors import Damaged, InvalidSetting, LogError, RecordsTrimmed
from dq.log.backend import BucketPlace, End, Slice, StorageReader, backend_of
from dq.log.files import Files
from dq.log.layout import REPAIR, Layout
from dq.log.sink_file import SinkFile, write_sink
from dq.log.stream_file import StreamDescription
from dq.model.settings import StreamSettings
from dq.model.start import Start, parse_start
from dq.model.told import about, words_of

log = logging.getLogger("dq")
Shard = tuple[str, int]


class SinkShards:
    """The streams of one sink, by shard.

    Args:
        root: the data directory.
        files: the file layer.
        name: of the sink.
        content: what is kept of it.
        core: its state.
        limits: `task_bytes` counts here.

    Attributes:
        detached: streams that it was taken off and whose cursors it keeps.
        left: all streams that it was taken off since this broker started.
        damaged: shards that cannot be read, with the reason.
    """

    def __init__(self, root: Path, files: Files, name: str, content: SinkFile, core: SinkCore, limits: Limits) -> None:
        self._root, self._layout, self._files, self._limits = root, Layout(root), files, limits
        self._name, self._content, self._settings, self._core = name, content, content.settings, core
        self.detached = set(content.detached)
        self.left = set(content.detached)
        self._readers: dict[Shard, StorageReader] = {}
        self._settings_of: dict[str, StreamSettings] = {}
        self._epochs: dict[Shard, tuple[str, int]] = {}
        self.damaged: dict[Shard, str] = {}
        self._untold: set[Shard] = set()  # of another epoch than was read: nobody has said yet how far they are committed
        self._unread: dict[Shard, int] = {}  # the offset at which a damaged one could not be read
        self._close_detached()

    def open(self, found: StreamDescription, firsts: Sequence[int], ends: Sequence[End], start: str | None = None) -> None:
        """Puts the sink over a stream; a sink that knows it already keeps its cursor.

        Args:
            start: where it begins if it is new here; None: as the sink's settings say.

        Raises:
            InvalidSetting: `start` says nothing of this stream. LogError: the place cannot be looked for.
        """
        self._attach(found.name)
        place = parse_start(self._settings.start if start is None else start)
        if found.name not in self.streams and start is not None:
            place.check_over({found.name: range(len(ends))})
        for bucket, end in enumerate(ends):
            shard = (found.name, bucket)
            known = shard in self._core.floors()
            self._add_shard(found, bucket, 0 if known else self._begin(place, found, bucket, firsts[bucket], end))
            self.committed(shard, end)
            self._look_again(shard)

    def _begin(self, place: Start, found: StreamDescription, bucket: int, first: int, end: End) -> int:
        """Where a bucket that is new to the sink begins for it."""

        def at_time(at: float) -> int:
            reader = self._open_reader(found.settings, (found.name, bucket))
            try:
                reader.advance(end)
                return reader.find(at)
            finally:
                reader.close()

        return min(max(place.offset(found.name, bucket, first, end.offset, at_time), first), end.offset)

    def reopen(self, found: StreamDescription) -> None:
        """A stream that the sink is over has a new writer; how far it is committed is told later."""
        for bucket in range(found.settings.bucket_count):
            self._add_shard(found, bucket, 0)
        self._close_detached()  # those follow it too: what is trimmed meanwhile would else lie beyond an end that it had

    def _add_shard(self, found: StreamDescription, bucket: int, start: int) -> None:
        shard, settings = (found.name, bucket), found.settings
        self._settings_of[found.name] = settings
        if self._epochs.get(shard) != (found.uuid, found.epoch):
            self._epochs[shard] = (found.uuid, found.epoch)
            reader = self._readers.pop(shard, None)
            if reader is not None:  # it may have read ahead what is not there any more
                reader.close()
                self._untold.add(shard)
        lossy = settings.durability != "sync"
        starts = [ShardStart(each.epoch, each.ends[bucket], lossy or each.accepted) for each in found.starts]
        try:
            gone = self._core.add_shard(shard, start, found.uuid, found.epoch, starts, lane=bucket // settings.buckets)
        except Damaged as error:
            place = shlex.quote(str(self._layout.stream(found.name)))
            hint = f"restore it from a backup, or accept the loss: {REPAIR} {place} --accept-loss"
            self._close(shard, f"{error}; {hint}")
            return
        self.damaged.pop(shard, None)
        if shard in self._untold:
            self._core.close_shard(shard)
        if gone:
            log.warning(
                "stream %s/%d lost its end, as %s: %d records that sink %s had been given are gone",
                *shard, f"durability {settings.durability!r} allows" if lossy else "a repair has accepted", gone, self._name,
                extra=about(sink=self._name, stream=shard[0], bucket=shard[1]),
            )  # fmt: skip

    def check_readable(self) -> None:
        """Raises Damaged where nothing of its streams can be read for this sink: its consumers would wait for ever."""
        if self.damaged and self.damaged.keys() >= self._core.floors().keys():
            raise Damaged(next(iter(self.damaged.values())))

    def _look_again(self, shard: Shard) -> None:
        """Closes a shard again that still cannot be read where it could not be before."""
        first = self._unread.pop(shard, None)
        if first is not None:
            try:
                self._readers[shard].read(first, 1, self._limits.task_bytes)
            except RecordsTrimmed:
                pass
            except (LogError, OSError) as error:
                self._unread[shard] = first
                self._close(shard, str(error), words_of(error))

    def _close(self, shard: Shard, why: str, logged: str = "") -> None:
        self.damaged[shard] = why
        self._core.close_shard(shard)
        extra = about(sink=self._name, stream=shard[0], bucket=shard[1])
        log.error("sink %s cannot go on with %s/%d: %s", self._name, *shard, logged or words_of(why), extra=extra)

    def committed(self, shard: Shard, end: End) -> None:
        """A bucket is committed up to `end`."""
        if shard not in self._readers:
            if shard in self.damaged:
                return
            try:
                self._readers[shard] = self._open_reader(self._settings_of.get(shard[0], StreamSettings()), shard)
            except (LogError, InvalidSetting) as error:  # a class of the user's own, which may not be there any more
                self._close(shard, str(error), words_of(error))
                return
        self._readers[shard].advance(end)
        if shard in self._untold:
            self._untold.discard(shard)
            if shard not in self.damaged and shard[0] not in self.detached:
                self._core.add_shard(shard, 0, *self._epochs[shard])
        self._core.committed(shard, end.offset)

    def _open_reader(self, settings: StreamSettings, shard: Shard) -> StorageReader:
        return backend_of(settings).open_reader(
            BucketPlace(self._files, self._layout.bucket(*shard), options=settings.options, limits=self._limits)
        )

    @property
    def streams(self) -> set[str]:
        """The streams it is over, and those that it was taken off and keeps a cursor of."""
        return {stream for stream, _ in self._core.floors()}

    def knows(self, stream: str, uuid: str) -> bool:
        """Whether it is over a stream, and over that one of its name."""
        return self.uuid_of(stream) == uuid

    def uuid_of(self, stream: str) -> str | None:
        """Which one of its name a stream is; None where it is over none."""
        known = self._epochs.get((stream, 0))
        return None if known is None else known[0]

    def gone(self, stream: str, marks: Sequence[int], removed: Sequence[tuple[int, Range]]) -> None:
        """Records of a stream are gone: those below its mark in each bucket, and ranges of single ones."""
        for bucket, mark in enumerate(marks):
            self._missed((stream, bucket), mark)
        for bucket, part in removed:
            self._core.removed((stream, bucket), [part])

    def forget(self, stream: str) -> None:
        """A stream is no more."""
        self._core.forget_stream(stream)
        for shard in [shard for shard in self._epochs if shard[0] == stream]:
            del self._epochs[shard]
            self.damaged.pop(shard, None)
            self._unread.pop(shard, None)
            self._untold.discard(shard)
            reader = self._readers.pop(shard, None)
            if reader is not None:
                reader.close()

    def detach(self, stream: str, *, destroy: bool) -> None:
        """Takes the sink off a stream: nothing more of it is handed out. Once more changes nothing.

        Args:
            destroy: forget its cursor too; else it goes on there when it is put over it again.

        Raises:
            DiskFull, LogError: it cannot be noted; nothing has changed.
        """
        self.left.add(stream)
        kept = not destroy and stream in self.streams
        self._keep(self.detached | {stream} if kept else self.detached - {stream})
        if destroy:
            self.forget(stream)
        self._close_detached()

    def _close_detached(self) -> None:
        for shard in self._core.floors():
            if shard[0] in self.detached:
                self._core.close_shard(shard)

    def _attach(self, stream: str) -> None:
        self.left.discard(stream)
        if stream in self.detached:
            self._keep(self.detached - {stream})
            for shard in self._core.floors():
                if shard[0] == stream:
                    self._epochs.pop(shard, None)

    def _keep(self, detached: set[str]) -> None:
        if detached != self.detached:
            write_sink(self._files, self._root, self._name, self._content._replace(detached=frozenset(detached)))
            self.detached = detached

    def seek(self, start: str) -> None:
        """Moves its cursors, but for those of streams that it was taken off; what its consumers have in hand is theirs no more.

        Raises:
            InvalidSetting: it says nothing of these streams. InUse: a dead letter is on its way. LogError: it cannot be read.
        """
        place, buckets = parse_start(start), dict[str, list[int]]()
        shards = [shard for shard in self._core.floors() if shard[0] not in self.detached]
        for stream, bucket in shards:
            buckets.setdefault(stream, []).append(bucket)
        place.check_over(buckets)
        offsets = {shard: self._sought(place, shard) for shard in shards}
        for shard, offset in offsets.items():
            self._core.seek(shard, offset)

    def _sought(self, place: Start, shard: Shard) -> int:
        reader = self._readers.get(shard)
        if reader is None:
            raise LogError(f"{shard[0]}/{shard[1]} cannot be read: {self.damaged.get(shard, 'try again')}")
        held = reader.stats()
        offset = place.offset(*shard, held.first_offset, held.end_offset, reader.find)
        return min(max(offset, held.first_offset), held.end_offset)

    def read(self, shard: Shard, first: int, count_max: int) -> Slice | None:
        """Records of a shard that are to be handed out; None where that cannot be, and the core knows why."""
        try:
            return self._readers[shard].read(first, count_max, self._limits.task_bytes)
        except RecordsTrimmed as error:  # up to what is known to be there: the rest may be of an epoch that is not told yet
            self._missed(shard, min(error.first, self._readers[shard].stats().end_offset))
        except (LogError, OSError) as error:
            self._unread[shard] = first
            self._close(shard, str(error), words_of(error))
        return None

    def _missed(self, shard: Shard, first: int) -> None:
        """The log of a shard begins at `first` now."""
        missed = self._core.trimmed(shard, first)
        if missed:
            extra = about(sink=self._name, stream=shard[0], bucket=shard[1])
            log.warning("sink %s missed %d records of %s/%d that were trimmed", self._name, missed, *shard, extra=extra)

    def reader_of(self, shard: Shard) -> StorageReader | None:
        """What reads a shard; None while nobody has said how far it is committed."""
        return self._readers.get(shard)

    def close(self) -> None:
        """Closes all files."""
        for reader in self._readers.values():
            reader.close()

"""The streams of a directory, as their one writer holds them: made, opened, checked, closed and destroyed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson

from dq.config import LIMITS, MIB, Limits
from dq.errors import BackendFailed, Damaged, DiskFull, InvalidName, InvalidSetting, LogError, StreamReadOnly, SyncFailed
from dq.log.backend import BucketPlace, backend_of
from dq.log.directories import check_directory, make_directory
from dq.log.files import NO_ROOM, Files, mapped
from dq.log.format import FORMAT, Identity, Malformed, seal, unseal, want
from dq.log.gone_file import Gone, open_gone, write_gone
from dq.log.layout import Layout
from dq.log.quarantine import Quarantine
from dq.log.storage import StorageReader, StorageWriter
from dq.log.stream_file import StreamDescription, read_stream
from dq.model.epoch import EpochStart
from dq.model.names import check_name
from dq.model.settings import StreamSettings

_STREAM_FILE_BYTES_MAX = 1 * MIB
_CLEAN_MARK_BYTES_MAX = 1024 * MIB
_MAKING, _GONE = ".making", ".gone"  # no stream has such a name: they begin with a dot
_TAKEN_NAMES = frozenset({"writer.lock", "writer.lock.pid", "clean.json", "clean.json.tmp"})


@dataclass(slots=True, eq=False)
class OpenStream:
    """A stream that takes records: one writer a bucket.

    Attributes:
        described: what its file says.
        gone: what its users trimmed and removed, as it is on disk.
        marks: by bucket, the first offset that may still be read; the limits of the stream raise it too.
    """

    described: StreamDescription
    writers: list[StorageWriter]
    gone: Gone
    marks: list[int]

    @property
    def name(self) -> str:
        return self.described.name

    @property
    def uuid(self) -> str:
        return self.described.uuid

    @property
    def epoch(self) -> int:
        return self.described.epoch

    @property
    def settings(self) -> StreamSettings:
        return self.described.settings

    @property
    def starts(self) -> tuple[EpochStart, ...]:
        return self.described.starts

    def firsts(self) -> list[int]:
        """By bucket, the first offset that can be read; records below it may still be on disk."""
        return [max(mark, writer.stats().first_offset) for mark, writer in zip(self.marks, self.writers, strict=True)]


class Catalog:
    """All streams below `root`, a directory that exists. For the one process that holds `streams/writer.lock`.

    Attributes:
        streams: those that take records.
        errors: those that are closed, and why. The others are served.
    """

    def __init__(self, files: Files, root: Path, limits: Limits = LIMITS, wall: Callable[[], float] = time.time) -> None:
        self._files, self._layout, self._limits, self._wall = files, Layout(root), limits, wall
        self._quarantine = Quarantine(files, self._layout.quarantine)
        self.streams: dict[str, OpenStream] = {}
        self.errors: dict[str, LogError] = {}

    # --- opening -----------------------------------------------------------------------------------------------------
    def open(self) -> None:
        """Opens every stream. One that cannot be opened is in `errors`.

        Raises:
            LogError: the directory itself cannot be used.
        """
        layout, files = self._layout, self._files
        check_directory(files, layout.root)
        for directory in (layout.streams, layout.quarantine):
            make_directory(files, directory)
        marks = self._take_marks()
        self._confirm(layout.streams)
        with mapped(layout.streams, "list"):
            names = files.list_directory(layout.streams)
        for name in names:
            self._open_entry(name, marks.get(name))

    def _open_entry(self, name: str, mark: Any) -> None:
        path = self._layout.stream(name)
        if name.endswith(_MAKING) and name.startswith("."):
            self._quarantine.take_file(name, path)  # never a stream: its maker died before the rename
        elif name.endswith(_GONE) and name.startswith("."):
            self._remove(path)  # its destruction was begun
        elif name not in _TAKEN_NAMES:
            with contextlib.suppress(InvalidName):
                self._open_named(check_name("stream", name), mark)

    def _open_named(self, name: str, mark: Any) -> None:
        try:
            self.streams[name] = self._open_stream(name, mark)
            self.errors.pop(name, None)
        except LogError as error:
            self.errors[name] = error
        except FileNotFoundError as error:
            self.errors[name] = Damaged(f"{error.filename} is missing: put it back, or move {self._layout.stream(name)} away")

    def reopen(self, name: str) -> OpenStream | None:
        """Tries a stream in `errors` once more, as after a repair; None if it is still there."""
        if name in self.errors:
            self._open_named(name, None)
        return self.streams.get(name)

    def _open_stream(self, name: str, mark: Any) -> OpenStream:
        check_directory(self._files, self._layout.stream(name))
        path = self._layout.stream_file(name)
        with mapped(path, "delete"):
            self._files.drop_unfinished(path)
        described = read_stream(self._files, self._layout.root, name)
        if mark is None:
            self._confirm(self._layout.stream(name))
        described = self._with_its_making(described)
        known = isinstance(mark, dict) and (mark.get("uuid"), mark.get("epoch")) == (described.uuid, described.epoch)
        writers = self._open_buckets(described, mark.get("buckets") if known else None)
        try:
            if not all(writer.report.clean for writer in writers):
                described = self._raise_epoch(described, writers)
            gone = open_gone(self._files, self._layout.root, described, [writer.end.offset for writer in writers])
        except BaseException:
            _close(writers)
            raise
        return OpenStream(described, writers, gone, list(gone.marks))

    def _confirm(self, directory: Path) -> None:
        """Flushes names that a writer gave which was killed before it did so itself: what is served from now on rests on them.
        Raises SyncFailed."""
        try:
            self._files.sync_directory(directory)
        except OSError as error:
            raise SyncFailed(f"the disk did not confirm what is in {directory}: {error.strerror}") from error

    def _with_its_making(self, described: StreamDescription) -> StreamDescription:
        """A stream whose `ttl` counts from when it was made, and of which that is not known, counts as made now."""
        if described.settings.ttl is None or described.made is not None:
            return described
        described = replace(described, made=self._wall())
        path = self._layout.stream_file(described.name)
        with mapped(path, "write"):
            self._files.write_atomically(path, described.encode())
        return described

    def _raise_epoch(self, described: StreamDescription, writers: list[StorageWriter]) -> StreamDescription:
        """On disk first: no segment may have an epoch that the stream has not."""
        raised = described.next_epoch([writer.end.offset for writer in writers])
        path = self._layout.stream_file(raised.name)
        with mapped(path, "write"):
            self._files.write_atomically(path, raised.encode())
        for writer in writers:
            writer.identity = replace(writer.identity, epoch=raised.epoch)
        return raised

    def _open_buckets(self, described: StreamDescription, marks: Any) -> list[StorageWriter]:
        name, settings = described.name, described.settings
        try:
            backend = backend_of(settings)
        except (InvalidSetting, TypeError) as error:
            raise LogError(f"stream {name!r} cannot be opened: {error}") from error
        if not isinstance(marks, list) or len(marks) != settings.bucket_count:
            marks = [None] * settings.bucket_count
        writers: list[StorageWriter] = []
        try:
            for bucket, mark in enumerate(marks):
                check_directory(self._files, self._layout.bucket(name, bucket))
                identity = Identity(name, bucket, described.uuid, described.epoch)
                clean = mark if isinstance(mark, dict) else None
                writers.append(backend.open_writer(self._place(name, bucket, settings), identity, clean))
        except BaseException:
            _close(writers)
            raise
        return writers

    def _place(self, name: str, bucket: int, settings: StreamSettings) -> BucketPlace:
        directory = self._layout.bucket(name, bucket)
        return BucketPlace(self._files, directory, settings.segment_bytes, settings.durability, settings.options, self._limits)

    # --- streams -----------------------------------------------------------------------------------------------------
    def __contains__(self, name: str) -> bool:
        """Whether there is a stream of that name, be it closed."""
        return name in self.streams or name in self.errors

    def get(self, name: str) -> OpenStream | None:
        """The stream, None if there is none. Raises the LogError of one that is closed."""
        if name in self.errors:
            raise self.errors[name]
        return self.streams.get(name)

    def create(self, name: str, settings: StreamSettings) -> OpenStream:
        """Makes a stream that does not exist yet; after a crash in between there is either all of it or nothing.

        Raises:
            InvalidName, InvalidSetting: it cannot be made. DiskFull, LogError: the disk does not take it. SyncFailed: the disk
                did not confirm it; whether it is made shows at the next start.
        """
        if check_name("stream", name) in _TAKEN_NAMES:
            raise InvalidName(f"{name!r} cannot name a stream: dq has a file of that name")
        if len(self.streams) + len(self.errors) >= self._limits.streams_max:
            raise InvalidSetting(f"stream {name!r} would be one more than the {self._limits.streams_max} of a directory")
        backend_of(settings)
        described = StreamDescription(name, str(uuid4()), 1, settings, made=self._wall())
        try:
            self._make(described)
        except OSError as error:
            kind = DiskFull if error.errno in NO_ROOM else LogError
            raise kind(f"cannot make the stream {name!r}: {error.strerror}; nothing of it is left") from error
        try:
            self._files.sync_directory(self._layout.streams)
        except OSError as error:
            why = f"the disk did not confirm that the stream {name!r} was made: {error.strerror}"
            raise SyncFailed(f"{why}; the broker finds out what it has, then ask again") from error
        try:
            writers = self._open_buckets(described, None)
        except (BackendFailed, InvalidSetting):  # its class does not take it; nobody was told that it exists
            self._remove(self._layout.stream(name))
            raise
        except LogError as error:  # it is made: once it can be opened, it is tried again
            self.errors[name] = error
            raise
        gone = Gone.nothing(settings.bucket_count)
        stream = self.streams[name] = OpenStream(described, writers, gone, list(gone.marks))
        return stream

    def _make(self, described: StreamDescription) -> None:
        files, streams, target = self._files, self._layout.streams, self._layout.stream(described.name)
        making = streams / f".{described.name}{_MAKING}"
        with contextlib.suppress(FileNotFoundError):
            files.state(target)
            raise FileExistsError(f"{target} exists")
        with contextlib.suppress(FileNotFoundError):
            files.state(making)
            self._quarantine.take_file(making.name, making)
        try:
            files.make_directory(making)
            for bucket in range(described.settings.bucket_count):
                files.make_directory(making / str(bucket))
            files.write_new(making / "stream.json", described.encode())
            files.sync_directory(making)
            files.rename(making, target)
        except OSError:
            with contextlib.suppress(OSError, LogError):
                self._remove(making)
            raise

    def reader(self, stream: OpenStream, bucket: int) -> StorageReader:
        """A reading side of a bucket, up to where it ends now. Raises InvalidSetting, LogError: it has none."""
        reader = backend_of(stream.settings).open_reader(self._place(stream.name, bucket, stream.settings))
        reader.advance(stream.writers[bucket].end)
        return reader

    def keep_gone(self, stream: OpenStream, gone: Gone) -> None:
        """Keeps what is gone of a stream from now on; changes nothing when it raises. Raises as `write_gone`."""
        write_gone(self._files, self._layout.root, stream.described, gone)
        stream.gone = gone
        stream.marks = list(map(max, stream.marks, gone.marks))

    def keep_once(self, stream: OpenStream) -> None:
        """Keeps that the stream takes keys for `once`, before the first of them is stored.

        Raises:
            DiskFull: there is no room for it. SyncFailed: the disk did not confirm it; what it has shows at the next start.
        """
        path, described = self._layout.stream_file(stream.name), replace(stream.described, once=True)
        try:
            self._files.write_atomically(path, described.encode())
        except OSError as error:
            if error.errno in NO_ROOM:
                raise DiskFull(f"no room for {path} ({error.strerror}): nothing was stored; free some space") from error
            raise SyncFailed(f"the disk did not confirm {path}: {error.strerror}; the broker finds out what it has") from error
        stream.described = described

    def destroy(self, name: str) -> None:
        """Deletes a stream and its records, for good. One that does not exist is no error.

        Raises:
            LogError: it cannot be deleted, and is closed; it may be asked for again. SyncFailed: the disk did not confirm it.
        """
        stream = self.streams.pop(name, None)
        if stream is not None:
            _close(stream.writers)
        elif self.errors.pop(name, None) is None:
            return
        gone = self._layout.streams / f".{name}.{uuid4()}{_GONE}"  # of its own: an earlier one may not be deleted yet
        try:
            with mapped(self._layout.stream(name), "delete"):
                self._destroy_elsewhere(stream)
                self._files.rename(self._layout.stream(name), gone)
        except LogError as error:
            if not isinstance(error.__cause__, FileNotFoundError):  # else somebody else deleted it
                self.errors[name] = error
                raise
        try:
            self._files.sync_directory(self._layout.streams)
        except OSError as error:
            why = f"the disk did not confirm that the stream {name!r} was deleted: {error.strerror}"
            raise SyncFailed(f"{why}; the broker finds out what it has, then ask again") from error
        with contextlib.suppress(LogError):  # it is nobody's any more; the next start deletes what is left of it
            self._remove(gone)

    def _destroy_elsewhere(self, stream: OpenStream | None) -> None:
        if stream is not None:
            for bucket in range(stream.settings.bucket_count):
                backend_of(stream.settings).destroy(self._place(stream.name, bucket, stream.settings))

    def _remove(self, path: Path) -> None:
        with mapped(path, "delete"):
            self._files.remove_tree(path)

    # --- stopping ----------------------------------------------------------------------------------------------------
    def close(self, *, clean: bool) -> None:
        """Closes all streams; with `clean`, flushes what is not on disk yet and leaves a mark by which the next start need not
        read them. One that cannot be flushed has no mark: the next start finds out what it has.

        Raises:
            LogError: the mark cannot be written; the next start reads everything.
        """
        for writer in [writer for stream in self.streams.values() for writer in stream.writers if clean]:
            with contextlib.suppress(LogError, StreamReadOnly):
                writer.sync()
        marks = {name: mark for name, stream in self.streams.items() if (mark := _mark(stream)) is not None}
        for stream in self.streams.values():
            _close(stream.writers)
        self.streams.clear()
        if clean:
            content, _ = seal(orjson.dumps({"format": FORMAT, "streams": marks})[:-1])
            with mapped(self._layout.clean_mark, "write"):
                self._files.write_atomically(self._layout.clean_mark, content)

    def _take_marks(self) -> dict[str, Any]:
        """What the last clean stop left, removed before anything is written that it does not know of."""
        path, files = self._layout.clean_mark, self._files
        with mapped(path, "delete"):
            files.drop_unfinished(path)
        try:
            content = files.read_whole(path, _CLEAN_MARK_BYTES_MAX)
        except FileNotFoundError:
            return {}
        with mapped(path, "delete"):
            files.unlink(path)
            files.sync_directory(path.parent)
        try:
            fields, _ = unseal(content)
            marks: dict[str, Any] = want(fields, "streams", dict)
        except Malformed:
            return {}  # a hint that is wrong costs a full check and nothing else
        return marks if fields.get("format") == FORMAT else {}


def _close(writers: list[StorageWriter]) -> None:
    for writer in writers:
        writer.close()


def _mark(stream: OpenStream) -> dict[str, Any] | None:
    buckets = [writer.clean_mark() for writer in stream.writers]
    return None if None in buckets else {"uuid": stream.uuid, "epoch": stream.epoch, "buckets": buckets}

"""What a backend class of the user's own raises, besides the errors of the contract, is told, and costs its stream only."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any, TypeVar

from dq.errors import BackendFailed, DqError, InvalidSetting, StreamReadOnly
from dq.log.format import Identity
from dq.log.retention import SegmentStats
from dq.log.storage import (
    Batch,
    BucketPlace,
    End,
    RecoveryReport,
    Slice,
    StorageBackend,
    StorageReader,
    StorageStats,
    StorageWriter,
    Stored,
)
from dq.model.told import about, place_of

log = logging.getLogger("dq")
T = TypeVar("T")


@contextlib.contextmanager
def told(cls: type, act: str) -> Iterator[None]:
    """Maps what the class raises to BackendFailed."""
    try:
        yield
    except DqError:
        raise
    except Exception as error:
        raise failed(cls, act, error) from error


def failed(cls: type, act: str, error: BaseException) -> BackendFailed:
    """The error that tells of an error of the class."""
    return BackendFailed(f"the backend class {cls.__qualname__} failed to {act}: {type(error).__name__}: {error}")


def _tell(cls: type, what: str, error: BaseException) -> None:
    """For the log, which does not quote the errors of a user's code."""
    log.error("the backend class %s: %s: %s", cls.__qualname__, what, place_of(error), extra=about(error))


class Guarded:
    """A `StorageBackend` of the user's own, as dq uses it."""

    def __init__(self, cls: type[StorageBackend]) -> None:
        self._cls = cls

    def open_writer(self, place: BucketPlace, identity: Identity, clean: dict[str, Any] | None) -> StorageWriter:
        """See `StorageBackend.open_writer`."""
        with told(self._cls, f"open {identity}"):
            return GuardedWriter(self._cls, self._whole(self._cls.open_writer(place, identity, clean), StorageWriter))

    def open_reader(self, place: BucketPlace) -> StorageReader:
        """See `StorageBackend.open_reader`."""
        with told(self._cls, f"open {place.directory}"):
            return GuardedReader(self._cls, self._whole(self._cls.open_reader(place), StorageReader))

    def _whole(self, side: T, contract: type) -> T:
        """What was opened; refused at once where it lacks something, and not when that is first asked for."""
        names = sorted(name for name in {*vars(contract), *contract.__annotations__} if not name.startswith("_"))
        missing = [name for name in names if not hasattr(side, name)]
        if missing:
            raise BackendFailed(
                f"what the backend class {self._cls.__qualname__} opens has no {', '.join(missing)}: "
                f"see dq.log.storage.{contract.__name__}"
            )
        return side

    def destroy(self, place: BucketPlace) -> None:
        """See `StorageBackend.destroy`."""
        with told(self._cls, f"destroy {place.directory}"):
            self._cls.destroy(place)


class GuardedWriter:
    """A `StorageWriter` of such a class. After a commit that failed in other ways than the contract names it takes no more."""

    def __init__(self, cls: type, writer: StorageWriter) -> None:
        self._cls, self._writer = cls, writer
        self._failed: str | None = None

    @property
    def identity(self) -> Identity:
        return self._writer.identity

    @identity.setter
    def identity(self, identity: Identity) -> None:
        self._writer.identity = identity

    @property
    def end(self) -> End:
        return self._writer.end

    @property
    def report(self) -> RecoveryReport:
        return self._writer.report

    @property
    def staged_bytes(self) -> int:
        return self._writer.staged_bytes

    @property
    def unsynced(self) -> bool:
        """See `StorageWriter.unsynced`."""
        return self._failed is None and self._writer.unsynced

    @property
    def synced(self) -> int:
        """See `StorageWriter.synced`."""
        return self._writer.synced

    def append(self, batch: Batch) -> Stored:
        """See `StorageWriter.append`."""
        self._check_usable()
        with told(self._cls, f"take a batch for {self.identity}"):
            return self._writer.append(batch)

    def commit(self) -> End:
        """See `StorageWriter.commit`."""
        self._check_usable()
        try:
            with told(self._cls, f"store a batch in {self.identity}"):
                return self._writer.commit()
        except BackendFailed as error:
            self._failed = str(error)
            raise BackendFailed(f"{error}; whether the batch is stored is not known") from error

    def sync(self) -> None:
        """See `StorageWriter.sync`."""
        with told(self._cls, f"flush {self.identity}"):
            self._writer.sync()

    def trim(self, offset: int) -> int:
        """See `StorageWriter.trim`."""
        with told(self._cls, f"trim {self.identity}"):
            return self._writer.trim(offset)

    def segments(self) -> list[SegmentStats]:
        """See `StorageWriter.segments`."""
        with told(self._cls, f"list {self.identity}"):
            return self._writer.segments()

    def clean_mark(self) -> dict[str, Any] | None:
        """See `StorageWriter.clean_mark`; none where the class cannot say."""
        try:
            return None if self._failed else self._writer.clean_mark()
        except Exception as error:
            _tell(self._cls, f"{self.identity} has no clean end: it failed to say how it ended", error)
            return None

    def stats(self) -> StorageStats:
        """See `StorageWriter.stats`; where the class cannot count, all up to the end."""
        try:
            return self._writer.stats()
        except Exception as error:
            _tell(self._cls, f"it failed to count {self.identity}", error)
            return StorageStats(0, self.end.offset, 0, 0)

    def close(self) -> None:
        """See `StorageWriter.close`; the others are closed whatever this one raises."""
        try:
            self._writer.close()
        except Exception as error:
            _tell(self._cls, f"it failed to close {self.identity}", error)

    def _check_usable(self) -> None:
        if self._failed is not None:
            raise StreamReadOnly(f"{self.identity} takes no records until the broker has started again: {self._failed}")


class GuardedReader:
    """A `StorageReader` of such a class."""

    def __init__(self, cls: type, reader: StorageReader) -> None:
        self._cls, self._reader = cls, reader
        self._unheard: BackendFailed | None = None

    def advance(self, end: End) -> None:
        """See `StorageReader.advance`, which raises nothing: should it, that is told when something is read."""
        self._unheard = None
        try:
            self._reader.advance(end)
        except Exception as error:
            self._unheard = failed(self._cls, "look at a bucket's end", error)

    def read(self, first: int, count_max: int, bytes_max: int) -> Slice:
        """See `StorageReader.read`."""
        self._check()
        with told(self._cls, f"read from offset {first}"):
            return self._reader.read(first, count_max, bytes_max)

    def find(self, at: float) -> int:
        """See `StorageReader.find`."""
        self._check()
        with told(self._cls, "find an instant"):
            return self._reader.find(at)

    def batches_since(self, at: float) -> Iterator[Any]:
        """See `BucketReader.batches_since`. Raises InvalidSetting where the class has no such method."""
        self._check()
        found = getattr(self._reader, "batches_since", None)
        if found is None:
            raise InvalidSetting(
                f"what the backend class {self._cls.__qualname__} opens to read has no batches_since, so that keys for once "
                "cannot be found again: publish without once, or give it that method"
            )
        with told(self._cls, "read its batches"):
            yield from found(at)

    def _check(self) -> None:
        if self._unheard is not None:
            raise self._unheard

    def look(self) -> End:
        """See `StorageReader.look`."""
        with told(self._cls, "look for the end of a bucket"):
            return self._reader.look()

    def stats(self) -> StorageStats:
        """See `StorageReader.stats`."""
        with told(self._cls, "count a bucket"):
            return self._reader.stats()

    def close(self) -> None:
        """See `StorageReader.close`; whatever the class raises."""
        try:
            self._reader.close()
        except Exception as error:
            _tell(self._cls, "it failed to close a bucket", error)

"""The adapter for a backend class in the other form: async `put`, `put_batch`, `get`, `flush`, `total_count` of dicts.

There is one instance a bucket, and it lives in the publisher broker's process: there a commit calls `put_batch` (or `put`,
record by record), a flush calls `flush`, and what readers ask for calls `get`. All calls of an instance are made one
after the other, in the one loop thread of the process.

Such a class keeps the users' dicts and nothing besides. So a record has no topic, name or headers here, its key only
chooses its bucket, and its time is not kept: `created_at` is 1970. It is nobody's promise that a batch is stored whole:
where `put` fails in the middle, what was stored before it stays, and the error says how much that is.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NoReturn
from zlib import crc32

import orjson

from dq.config import LIMITS
from dq.errors import BackendFailed, InvalidPayload, InvalidSetting, ProtocolError, RecordTooLarge, StreamReadOnly
from dq.log.fetched import cannot_read
from dq.log.format import Identity
from dq.log.guard import failed, told
from dq.log.retention import SegmentStats
from dq.log.storage import Batch, BucketPlace, End, RecoveryReport, StorageReader, StorageStats, Stored
from dq.log.window import Windows

_PLAIN = frozenset({"at", "key", "payload"})
Records = list[dict[str, Any]]


@functools.cache
def loop_of_this_process() -> asyncio.AbstractEventLoop:
    """The loop in which the users' classes run, in a thread of its own."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True, name="dq-backends").start()
    return loop


class Adapted:
    """Such a class, as dq uses it."""

    def __init__(self, cls: type) -> None:
        self._cls = cls

    def open_writer(self, place: BucketPlace, identity: Identity, clean: dict[str, Any] | None) -> AdapterLog:
        """See `StorageBackend.open_writer`. Raises BackendFailed."""
        with told(self._cls, f"open {identity}"):
            return AdapterLog(Instance(self._cls, place, identity), identity, place)

    def open_reader(self, place: BucketPlace) -> StorageReader:
        """Raises InvalidSetting: another process cannot read it."""
        raise InvalidSetting(cannot_read(self._cls.__qualname__))

    def destroy(self, place: BucketPlace) -> None:
        """What it keeps elsewhere is its own."""


class Instance:
    """One object of the user's class, and calls of its methods: one at a time, in the loop's thread, with a limit.

    Raises:
        BackendFailed: it cannot be made.
    """

    def __init__(self, cls: type, place: BucketPlace, identity: Identity) -> None:
        self._cls, self._identity, self._seconds = cls, identity, place.limits.backend_seconds
        self._loop = loop_of_this_process()
        self._turn = asyncio.Lock()
        self._object: Any = None
        self._object = self.call(f"open {identity}", cls, **_arguments(cls, place, identity))

    def has(self, method: str) -> bool:
        """Whether the class has a method."""
        return callable(getattr(self._object, method, None))

    def call(self, act: str, method: str | type, *arguments: Any, **named: Any) -> Any:
        """Calls a method and waits for it. Raises BackendFailed; `TimeoutError` is its cause where it took too long."""
        future = self.begin(act, method, *arguments, **named)
        try:
            return future.result(self._seconds)
        except TimeoutError as error:
            if future.done():  # it was the class that raised it
                raise
            future.cancel()
            slow = TimeoutError(f"it took longer than {self._seconds:g} s")
            raise failed(self._cls, act, slow) from error

    def begin(self, act: str, method: str | type, *arguments: Any, **named: Any) -> Future[Any]:
        """Calls a method; the future ends with its value, or with BackendFailed."""

        async def run() -> Any:
            async with self._turn:
                try:
                    value = (getattr(self._object, method) if isinstance(method, str) else method)(*arguments, **named)
                    return await value if inspect.isawaitable(value) else value
                except Exception as error:
                    raise failed(self._cls, act, error) from error

        return asyncio.run_coroutine_threadsafe(run(), self._loop)


def _arguments(cls: type, place: BucketPlace, identity: Identity) -> dict[str, Any]:
    """What the constructor is called with: the stream's options, and of what that form passes besides, what it takes."""
    options = dict(place.options)
    root = options.pop("storage_path", None)
    own = Path(str(root)) / identity.stream / f"bucket_{identity.bucket}" if root is not None else place.directory
    offered = {"bucket_id": identity.bucket, "storage_path": str(own), "batch_size": LIMITS.batch_records}
    takes = inspect.signature(cls).parameters
    everything = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in takes.values())
    if root is not None and "storage_path" not in takes and not everything:
        raise InvalidSetting(
            f"the backend class {cls.__qualname__} takes no storage_path: leave it out, and what it keeps is its own"
        )
    return {name: value for name, value in offered.items() if everything or name in takes} | options


class _Staged:
    """A batch that the next commit hands over, and how its window knows it."""

    __slots__ = ("first", "note", "records")

    def __init__(self, batch: Batch, checksum: int, first: int, records: Records) -> None:
        self.first, self.records = first, records
        self.note = (batch.publisher, batch.sequence, checksum, first, batch.count)


class AdapterLog:
    """The `StorageWriter` over one instance. Batches that come again are known as long as this process lives."""

    def __init__(self, instance: Instance, identity: Identity, place: BucketPlace) -> None:
        self._instance, self.identity, self._limits = instance, identity, place.limits
        self.report = RecoveryReport(0, 0, None, clean=False)
        self.staged_bytes = 0
        self._windows = Windows(place.limits)
        self._staged: list[_Staged] = []
        self._failed: str | None = None
        self.end = _end_at(self._count())
        self._next = self._synced = self.end.offset

    def _count(self) -> int:
        """How many records it has: it is asked, or they are counted."""
        act = f"count {self.identity}"
        if self._instance.has("total_count"):
            count = self._instance.call(act, "total_count")
            if type(count) is not int or count < 0:
                raise BackendFailed(f"the backend class that keeps {self.identity} counts {count!r} records")
            return count
        count = 0
        while found := len(self._instance.call(act, "get", count, self._limits.fetch_records)):
            count += found
        return count

    # --- writing -----------------------------------------------------------------------------------------------------
    def append(self, batch: Batch) -> Stored:
        """See `StorageWriter.append`. Raises InvalidPayload for a record that such a class cannot keep."""
        self._check_usable()
        records, checksum = self._records_of(batch), crc32(batch.lines)
        known = self._windows.find(batch.publisher, batch.sequence, checksum, batch.count, batch.again)
        if known is not None:
            return known
        staged = _Staged(batch, checksum, self._next, records)
        self._windows.stage(*staged.note, now=0.0)
        self._staged.append(staged)
        self.staged_bytes += len(batch.lines)
        self._next += batch.count
        return Stored(staged.first, batch.count, duplicate=False)

    def _records_of(self, batch: Batch) -> Records:
        if not batch.lines.endswith(b"\n") or type(batch.sequence) is not int or batch.sequence < 0:
            raise ProtocolError("a batch that is empty, does not end in a newline or has no number")
        if batch.count == 1 and len(batch.lines) > self._limits.kept_bytes_max:
            raise RecordTooLarge(f"a record of {len(batch.lines):,} bytes; {self._limits.kept_bytes_max:,} are the most")
        try:
            lines = [orjson.loads(line) for line in bytes(batch.lines).split(b"\n")[:-1]]
        except ValueError as error:
            raise ProtocolError(f"a record line that is not JSON: {error}") from error
        if len(lines) != batch.count:
            raise ProtocolError(f"a batch of {len(lines)} lines that says it has {batch.count!r}")
        for line in lines:
            if not isinstance(line, dict) or not line.keys() <= _PLAIN or not isinstance(line.get("payload"), dict):
                raise InvalidPayload(
                    f"{self.identity} is kept by a class that takes dicts and nothing beside them: "
                    "publish a dict, without topic, name and headers"
                )
        return [line["payload"] for line in lines]

    def commit(self) -> End:
        """See `StorageWriter.commit`. Raises BackendFailed: what is below `end` is stored, in its batch or not."""
        self._check_usable()
        staged, self._staged, self.staged_bytes = self._staged, [], 0
        for place, each in enumerate(staged):
            try:
                self._put(each)
            except BackendFailed as error:
                self._give_up(staged[:place], each, error)
        self._windows.keep(0.0)
        return self.end

    def _put(self, staged: _Staged) -> None:
        act, records = f"store a batch in {self.identity}", staged.records
        if self._instance.has("put_batch"):
            self._instance.call(act, "put_batch", records)
            self.end = _end_at(staged.first + len(records))
            return
        for record in records:
            self._instance.call(act, "put", record)
            self.end = _end_at(self.end.offset + 1)

    def _give_up(self, stored: list[_Staged], broken: _Staged, error: BackendFailed) -> NoReturn:
        """A batch was not taken: learns how much of it was, forgets those behind it, and raises what to tell."""
        self._windows.drop()
        for each in stored:
            self._windows.stage(*each.note, now=0.0)
        self._windows.keep(0.0)
        if isinstance(error.__cause__, TimeoutError):
            self._failed = str(error)
            raise BackendFailed(f"{error}; whether the batch is stored is not known") from error
        try:
            if self._instance.has("total_count"):
                self.end = _end_at(max(self._count(), broken.first))
        except BackendFailed as second:
            self._failed = str(second)
        self._next = self.end.offset
        part = self._next - broken.first
        raise BackendFailed(
            f"{error}; {part or 'nothing'} of the {len(broken.records)} records of the batch {'are' if part else 'is'} stored"
        ) from error

    @property
    def unsynced(self) -> bool:
        """See `StorageWriter.unsynced`."""
        return self._failed is None and self._synced != self.end.offset

    @property
    def synced(self) -> int:
        """See `StorageWriter.synced`."""
        return self._synced

    def sync(self) -> None:
        """See `StorageWriter.sync`. Raises BackendFailed; it may be tried again."""
        self._check_usable()
        target = self.end.offset
        self._instance.call(f"flush {self.identity}", "flush")
        self._synced = max(target, self._synced)

    def _check_usable(self) -> None:
        if self._failed is not None:
            raise StreamReadOnly(f"{self.identity} takes no records until the broker has started again: {self._failed}")

    # --- reading -----------------------------------------------------------------------------------------------------
    def fetch(self, first: int, count_max: int, bytes_max: int, then: Callable[[Future[Any]], None]) -> None:
        """Begins to read; `then` is called in the loop's thread with a future of the list of record lines.

        There is at least one line, unless `first` is the end, and no more than fit. The future may end with BackendFailed.
        """
        count = min(count_max, self._limits.fetch_records, self.end.offset - first)
        found: Future[list[bytes]] = Future()
        found.add_done_callback(then)
        if count <= 0:
            found.set_result([])
            return

        def done(got: Future[Any]) -> None:
            try:
                found.set_result(self._lines(got.result(), first, count, bytes_max))
            except Exception as error:
                found.set_exception(error)

        self._instance.begin(f"read {self.identity} from offset {first}", "get", first, count).add_done_callback(done)

    def _lines(self, records: Any, first: int, count: int, bytes_max: int) -> list[bytes]:
        if not isinstance(records, list) or not records or not all(isinstance(record, dict) for record in records):
            raise BackendFailed(
                f"the backend class that keeps {self.identity} was asked for {count} records from offset {first} on, of "
                f"{self.end.offset}, and gave {type(records).__name__} of {len(records) if isinstance(records, list) else 0}"
            )
        lines: list[bytes] = []
        size = 0
        for record in records[:count]:
            line = orjson.dumps({"at": 0.0, "payload": record}, option=orjson.OPT_APPEND_NEWLINE)
            size += len(line)
            if lines and size > bytes_max:
                break
            lines.append(line)
        return lines

    # --- the rest ----------------------------------------------------------------------------------------------------
    def trim(self, offset: int) -> int:
        """Such a class deletes nothing."""
        return 0

    def segments(self) -> list[SegmentStats]:
        """It has none that dq knows of."""
        return []

    def clean_mark(self) -> None:
        """None: it is asked for its end at every start."""

    def stats(self) -> StorageStats:
        """See `StorageWriter.stats`; what it takes on the disk is not known."""
        return StorageStats(0, self.end.offset, 0, 0)

    def close(self) -> None:
        """The object goes with the process; it was flushed before."""


def _end_at(offset: int) -> End:
    return End(offset, 0, offset)

"""The keys of `publish(once=)`: a record whose key was seen within its stream's window is stored no second time.

A key stands in the header of its record's batch, so the log is all that is needed to know it again. The keys of a stream are
read from there when the first such record comes after a start, a piece in each turn: nobody else waits for that. A stream to
which none ever came has nothing to read, and pays nothing.

The window is measured by the monotonic clock as long as the process lives, and across a start by the wall clock: one that was
set back makes keys be known for up to a window longer; one that leaps ahead before a start makes them older than they are.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from operator import itemgetter

from dq.broker.life import Life
from dq.broker.staged import Noted, Staged
from dq.broker.stream_changes import Holder
from dq.core.once_keys import OnceKeys, bucket_and_offset, digest_of, place_of
from dq.errors import DqError, InvalidSetting, OnceFull
from dq.log.catalog import Catalog, OpenStream
from dq.log.storage import Batch, Stored
from dq.model.settings import BY_CLASS

_Waiting = tuple[Holder, int, Batch]
_Found = tuple[float, bytes, int]


class _Held:
    """The keys of a stream: while they are read, what came waits."""

    __slots__ = ("keys", "loading", "stream", "waiting", "waiting_bytes")

    def __init__(self, stream: OpenStream, keys: OnceKeys) -> None:
        self.stream, self.keys = stream, keys
        self.loading: Iterator[None] | None = None
        self.waiting: deque[_Waiting] = deque()
        self.waiting_bytes = 0


class Once:
    """The keys of all streams.

    Args:
        life: of the process.
        catalog: the streams.
        stage: stages a batch whose key is new.
        join: answers for a batch whose key is known, when the first one is answered.
        refuse: answers for a batch that had to wait and cannot be stored.
    """

    def __init__(
        self,
        life: Life,
        catalog: Catalog,
        stage: Callable[[Holder, OpenStream, int, Batch, Noted], None],
        join: Callable[[OpenStream, Staged], None],
        refuse: Callable[[Holder, DqError, int, int], None],
    ) -> None:
        self._life, self._catalog = life, catalog
        self._stage, self._join, self._refuse = stage, join, refuse
        self._held: dict[str, _Held] = {}
        self._loading: dict[str, _Held] = {}
        self._swept = 0.0

    @property
    def loading(self) -> bool:
        """Whether a turn is wanted, for keys that are being read."""
        return bool(self._loading)

    def take(self, client: Holder, bucket: int, batch: Batch) -> None:
        """A batch with a key.

        Raises:
            OnceFull: as many keys are known as may be.
            InvalidSetting: the backend of the stream keeps no keys.
            PublishError, LogError, ProtocolError: as `StorageWriter.append`; or the keys that there are cannot be read.
        """
        held = self._of(client.stream)
        if held.loading is None:
            self._store(held, client, bucket, batch)
            return
        held.waiting.append((client, bucket, batch))
        held.waiting_bytes += len(batch.lines)
        while held.loading is not None and held.waiting_bytes > self._life.limits.once_waiting_bytes_max:
            self._load_on(held)

    def _store(self, held: _Held, client: Holder, bucket: int, batch: Batch) -> None:
        stream, keys, now = held.stream, held.keys, self._life.clock.monotonic()
        digest = digest_of(batch.about["once"])  # type: ignore[index]
        place = keys.find(digest, now)
        if place is not None:
            stored_bucket, offset = bucket_and_offset(place)
            self._join(stream, Staged(client, stream.name, bucket, batch, Stored(offset, 1, duplicate=True), stored_bucket))
        elif keys.full:
            raise OnceFull(
                f"stream {stream.name!r} knows the {len(keys):,} keys of its last {stream.settings.once_seconds:g} s, and no "
                "more can be: publish it again later, or without once, or make the stream with fewer once_seconds"
            )
        else:
            self._stage(client, stream, bucket, batch, Noted(keys, digest, bucket, now))

    def _of(self, stream: OpenStream) -> _Held:
        held = self._held.get(stream.name)
        if held is not None and held.stream is stream:
            return held
        if stream.settings.durability == BY_CLASS:
            raise InvalidSetting(
                f"stream {stream.name!r} is kept by a class with put, get and flush, which keeps no keys: once needs "
                'backend="json", "memory" or a dq.StorageBackend whose reader has batches_since'
            )
        held = _Held(stream, OnceKeys(stream.settings.once_seconds, self._life.limits.once_keys_max))
        if stream.described.once:
            held.loading = self._load(held)
            self._loading[stream.name] = held
        else:
            with closing(self._catalog.reader(stream, 0)) as reader:
                next(reader.batches_since(math.inf), None)  # type: ignore[attr-defined]  # refused where it has none
            self._catalog.keep_once(stream)
        self._held[stream.name] = held
        return held

    # --- reading them ----------------------------------------------------------------------------------------------

    def _load(self, held: _Held) -> Iterator[None]:
        """Reads the keys of a stream, a piece at a time."""
        stream, found = held.stream, list[_Found]()
        wall, now = self._life.clock.wall(), self._life.clock.monotonic()
        since = wall - stream.settings.once_seconds
        for bucket in range(len(stream.writers)):
            with ExitStack() as opened:
                reader = opened.enter_context(closing(self._catalog.reader(stream, bucket)))
                newest = 0.0  # a clock that was set back: what came later is not older
                for batches in reader.batches_since(since):  # type: ignore[attr-defined]
                    for batch in batches:
                        about, newest = batch[9], max(newest, batch[7])
                        if about is not None and type(key := about.get("once")) is str and newest > since:
                            moment = now - max(wall - newest, 0.0)
                            found.append((moment, digest_of(key), place_of(bucket, batch[0])))
                    yield
        if len(stream.writers) > 1:
            found.sort(key=itemgetter(0))
        held.keys.load(found)

    def _load_on(self, held: _Held) -> None:
        name, error = held.stream.name, None
        try:
            if held.loading is not None and next(held.loading, self) is not self:
                return
        except DqError as raised:  # told to those who wait; the next one tries again
            error = raised
            self._held.pop(name, None)
        self._loading.pop(name, None)
        held.loading = None
        for client, bucket, batch in held.waiting:
            try:
                if error is not None:
                    raise error
                self._store(held, client, bucket, batch)
            except DqError as raised:
                self._refuse(client, raised, bucket, batch.sequence)
        held.waiting.clear()

    def turn(self) -> None:
        """Reads on, and lets go of what is over."""
        for name, held in list(self._loading.items()):
            if self._catalog.streams.get(name) is held.stream:
                self._load_on(held)
            else:  # it was destroyed, and who waited was cut off
                self._loading.pop(name)
        now = self._life.clock.monotonic()
        if self._held and now >= self._swept + self._life.limits.trim_seconds:
            self._swept = now
            for name, held in list(self._held.items()):
                if self._catalog.streams.get(name) is not held.stream:
                    del self._held[name]
                elif held.loading is None:
                    held.keys.expire(now)

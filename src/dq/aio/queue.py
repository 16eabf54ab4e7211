"""`write_queue` and `read_queue`: a stream of dicts, shared out to buckets by a column, and read by offset."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from dq.aio.broker import Broker as AsyncBroker
from dq.aio.queue_facts import Queue
from dq.aio.queue_reader import QueueReader, SyncQueueReader
from dq.aio.queue_records import chosen_buckets
from dq.aio.queue_writer import QueueWriter, SyncQueueWriter
from dq.aio.threads import in_thread
from dq.client.attach import connect
from dq.client.broker import Broker
from dq.client.place import Place, root_of
from dq.client.publisher import Publisher
from dq.client.reader import Reader
from dq.errors import InvalidSetting, UnknownStream
from dq.log.backend import get_backend_class, wish_of
from dq.model.event import EventType
from dq.model.names import check_name, check_new_stream
from dq.model.settings import StreamSettings

NUM_BUCKETS = 4
_OWN_PLACES = ("json", "memory")


async def write_queue(
    broker: Place,
    topic: str,
    bucket_column: str = "id",
    num_buckets: int = NUM_BUCKETS,
    batch_size: int = 100,
    storage_path: str | None = None,
    backend: str | type = "json",
    backend_options: Mapping[str, Any] | None = None,
) -> QueueWriter:
    """A writer of a queue, which is made if there is none.

    Args:
        broker: of `dq` or of `dq.aio`, or the path of a data directory.
        topic: the name of the stream.
        bucket_column: which value of a record chooses its bucket. It is this writer's own and not kept with the queue: let all
            writers of a queue have the same.
        num_buckets: fixed when the queue is made; default 4.
        batch_size: records that are sent together, where several coroutines put one at a time; default 100.
        storage_path: for a backend class of the user's own that takes it; dq's own keep theirs in the data directory.
        backend: "json" (default), "memory", a registered name, or a class of the user's own.
        backend_options: what such a class is made with.

    Raises:
        SettingsMismatch: the queue exists with other settings; the message shows both.
        BrokerNotRunning, InvalidName, InvalidSetting, BackendFailed.
    """
    if not isinstance(bucket_column, str) or not bucket_column:
        raise InvalidSetting(f"bucket_column is the name of a column, not {bucket_column!r}")
    wish = _wish(num_buckets, backend, storage_path, backend_options)
    check_new_stream(topic)

    def make() -> SyncQueueWriter:
        handle, owned = _handle(broker)
        with _closed_on_error(owned):
            queue = Queue(handle, topic, _opened(handle, topic, wish, create=True), bucket_column)
            publisher = Publisher(handle.root, topic, batch_size)
        handle.adopt(publisher)
        return SyncQueueWriter(queue, publisher, owned)

    return QueueWriter(await in_thread(make, late=SyncQueueWriter.close))


async def read_queue(
    broker: Place,
    topic: str,
    bucket_id: int | None = None,
    bucket_ids: list[int] | None = None,
    rank: int | None = None,
    world_size: int | None = None,
    num_buckets: int | None = None,
    storage_path: str | None = None,
    backend: str | type | None = None,
    backend_options: Mapping[str, Any] | None = None,
) -> QueueReader:
    """A reader of a queue, from its first record on. A queue that does not exist is made: readers may come first.

    Args:
        broker, topic: as of `write_queue`.
        bucket_id, bucket_ids: read this bucket, these buckets.
        rank, world_size: read the buckets i with i % world_size == rank. They go before bucket_id, that before bucket_ids; with
            none of them all are read.
        num_buckets: of the queue, to be sure that it is as expected; default None: as it is, or 4 if it is new.
        storage_path, backend, backend_options: the same; default None: as it is, or as of `write_queue` if it is new.

    Raises:
        SettingsMismatch: the queue exists with other settings; the message shows both.
        InvalidSetting: there are no such buckets. BrokerNotRunning, InvalidName, BackendFailed.
    """
    wish = _wish(num_buckets, backend, storage_path, backend_options)
    check_name("stream", topic)

    def make() -> SyncQueueReader:
        handle, owned = _handle(broker)
        with _closed_on_error(owned):
            settings = _found_or_made(handle, topic, wish)
            chosen = chosen_buckets(settings.bucket_count, bucket_id, bucket_ids, rank, world_size)
            reader = Reader(handle.root, topic, start="oldest", buckets=chosen) if chosen else None
        if reader is not None:
            handle.adopt(reader)
        return SyncQueueReader(Queue(handle, topic, settings, None), reader, chosen, owned)

    return QueueReader(await in_thread(make, late=SyncQueueReader.close))


def _wish(
    num_buckets: int | None, backend: str | type | None, storage_path: str | None, options: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The settings that are asked for, as they travel."""
    asked: dict[str, Any] = {"buckets": num_buckets, "backend": backend, "backend_options": dict(options) if options else None}
    if storage_path is not None:
        if backend is None or get_backend_class(backend) in map(get_backend_class, _OWN_PLACES):
            raise InvalidSetting(
                f"storage_path={str(storage_path)!r} is for a backend class of your own: what dq keeps lies in the data "
                "directory of the broker, as in BrokerManager(path)"
            )
        asked["backend_options"] = {**(asked["backend_options"] or {}), "storage_path": str(storage_path)}
    return wish_of({name: value for name, value in asked.items() if value is not None})


def _opened(broker: Broker, topic: str, wish: dict[str, Any], *, create: bool) -> StreamSettings:
    answer = broker.ask(EventType.OPEN, {"stream": topic, "create": create, "settings": wish})
    return StreamSettings.from_dict(answer["opened"]["settings"])


def _found_or_made(broker: Broker, topic: str, wish: dict[str, Any]) -> StreamSettings:
    try:
        return _opened(broker, topic, wish, create=False)
    except UnknownStream:
        check_new_stream(topic)
        return _opened(broker, topic, {"buckets": NUM_BUCKETS, **wish}, create=True)


def _handle(place: Place) -> tuple[Broker, Broker | None]:
    """A handle on the broker, and the same if it is to be closed with the writer or reader."""
    if isinstance(place, AsyncBroker):
        return place.sync, None
    if isinstance(place, Broker):
        return place, None
    own = connect(root_of(place))
    return own, own


@contextlib.contextmanager
def _closed_on_error(owned: Broker | None) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if owned is not None:
            owned.close()
        raise

"""The asyncio face of dq: the names of `dq`, used by `async with`, over the same client core; and the queues of dicts."""

from __future__ import annotations

from dq.aio.broker import Broker, BrokerManager, connect
from dq.aio.consumer import Consumer
from dq.aio.listener import Listener
from dq.aio.publisher import Publisher
from dq.aio.queue import read_queue, write_queue
from dq.aio.queue_facts import BucketStats, Queue
from dq.aio.queue_reader import QueueReader, SyncQueueReader
from dq.aio.queue_writer import QueueWriter, SyncQueueWriter
from dq.aio.reader import Reader
from dq.aio.sink import Sink
from dq.aio.stream import Stream, Topic

__all__ = [
    "Broker",
    "BrokerManager",
    "BucketStats",
    "Consumer",
    "Listener",
    "Publisher",
    "Queue",
    "QueueReader",
    "QueueWriter",
    "Reader",
    "Sink",
    "Stream",
    "SyncQueueReader",
    "SyncQueueWriter",
    "Topic",
    "connect",
    "read_queue",
    "write_queue",
]

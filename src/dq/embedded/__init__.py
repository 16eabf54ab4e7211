"""Queues in the calling process, each in a directory of its own, without any broker; on Linux, macOS and Windows.

`PersistentQueue` gives each item to one, `MpmcQueue` gives each to every label until it expires, `Queue` has the face of the
standard `queue.Queue`. All stand on dq's log: `jq` reads it, `python -m dq.main verify` checks it. Imports nothing heavier
than filelock and orjson.
"""

from __future__ import annotations

from queue import Empty, Full

from dq.embedded.mpmc import MpmcQueue, StartPosition
from dq.embedded.nonblocking import NonBlockingMpmcQueue, NonBlockingPersistentQueue, Response
from dq.embedded.persistent import PersistentQueue
from dq.embedded.removal import remove_mpmc_queue, remove_queue
from dq.embedded.standard import Queue

__all__ = [
    "Empty", "Full", "MpmcQueue", "NonBlockingMpmcQueue", "NonBlockingPersistentQueue", "PersistentQueue", "Queue", "Response",
    "StartPosition", "remove_mpmc_queue", "remove_queue",
]  # fmt: skip

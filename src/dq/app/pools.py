"""What runs the tasks of one handler: the contract of the three kinds of pools.

`ThreadPool` (threads.py) for functions, `LoopPool` (loops.py) for coroutine functions, `ProcessPool` (processes.py) for
                                       functions
that hold the interpreter. A pool takes deliveries from its mailbox when it has a free place, calls `handler.call(delivery)`,
makes a verdict of what comes of it (`verdict_of`, `failed`), and gives that to `mailbox.settle`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from dq.app.engine import Delivery
from dq.app.handler import Handler


class InFlight(NamedTuple):
    """A task that a handler is working on.

    Attributes:
        delivery: the task.
        since: monotonic seconds at which it began.
    """

    delivery: Delivery
    since: float


class Pool(Protocol):
    """Runs the tasks of one handler, at most `places` at once. All is called by the thread that runs the app."""

    @property
    def handler(self) -> Handler:
        """Whose tasks it runs."""

    @property
    def places(self) -> int:
        """How many tasks it works on at once, at most."""

    def start(self) -> None:
        """Begins to take and run tasks, in threads or processes of its own."""

    def tick(self, now: float) -> bool:
        """Called every few milliseconds while something is in hand, else every `fetch_seconds`: adds threads, looks at
        timeouts.

        Args:
            now: monotonic seconds.

        Returns whether something is in flight, so that the next tick is to come soon.
        """

    def in_flight(self) -> Sequence[InFlight]:
        """What it works on now."""

    def stop(self) -> None:
        """Begins no more tasks (the mailbox gives none out any more); does not wait for those in flight."""

    def close(self) -> None:
        """At once: what is still in flight is left behind (threads) or ended (processes, coroutines). Its tasks are not settled
        any more. Safe twice."""

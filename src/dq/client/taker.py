"""`Taker`: a consumer whose tasks are taken in lists and settled in any order, by whoever runs them."""

from __future__ import annotations

from itertools import islice
from typing import Any

from dq.client.consumer import Consumer
from dq.client.task import Task
from dq.model.outcome import Outcome


class Taker(Consumer):
    """As `Consumer`, but not iterated over: `begin`, then `take` as often as needed, then `end`.

    What was taken is held until it is settled, however long that takes.

    Args:
        place, streams, wishes: as of `Consumer`.
        most: records to hold in hand at most, before they are taken; None: as `prefetch` has it.
    """

    def __init__(self, *place: Any, most: int | None = None, **wishes: Any) -> None:
        super().__init__(*place, **wishes)
        if most is not None:
            self._hand.most = most

    def take(self, limit: int, timeout: float) -> list[Task]:
        """At most `limit` tasks; waits up to `timeout` seconds for the first. Empty: none came, or it was stopped.

        Raises:
            BrokerLost: the broker did not come back within `reconnect_timeout`.
        """
        while not self._stopped:
            tasks = self._ready_tasks(limit)
            if tasks:
                return tasks
            if not self.next_lease(timeout):
                break
        return []

    @property
    def expiring(self) -> bool:
        """Whether tasks came that expire."""
        return self._hand.expiring

    def _ready_tasks(self, limit: int) -> list[Task]:
        tasks = []
        for fields, lease, offset in islice(self._hand.ready, limit):
            try:
                tasks.append(Task(lease, offset, fields))
            except (KeyError, TypeError, ValueError):
                self._hand.decide(lease, (offset, offset + 1), Outcome.DEAD_LETTER, reason="the record has no payload")
        return tasks

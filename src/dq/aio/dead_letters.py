"""`dq.aio.DeadLetters`: what was given up of a stream."""

from __future__ import annotations

from functools import partial
from typing import Any

from dq.aio.threads import in_thread
from dq.client.dead_letters import DeadLetters as SyncDeadLetters
from dq.client.dead_letters import DeadRecord


class DeadLetters:
    """The dead letters of one stream; what `broker.dlq(stream)` returns. See `dq.DeadLetters`."""

    def __init__(self, made: SyncDeadLetters) -> None:
        self._it = made

    @property
    def stream(self) -> str:
        """Whose they are."""
        return self._it.stream

    async def list(self, limit: int | None = None, **filters: Any) -> list[DeadRecord]:
        """The dead letters, the oldest first. See `dq.DeadLetters.list`; all are in memory here."""
        return await in_thread(lambda: [*self._it.list(limit, **filters)])

    async def show(self, letter: str) -> DeadRecord:
        """One of them, by the id of the dead letter. Raises UnknownRecord."""
        return await in_thread(partial(self._it.show, letter))

    async def count(self, **filters: Any) -> int:
        """How many there are."""
        return await in_thread(partial(self._it.count, **filters))

    async def replay(self, *letters: str, **filters: Any) -> int:
        """Publishes records once more, each for the sink that gave it up. See `dq.DeadLetters.replay`."""
        return await in_thread(partial(self._it.replay, *letters, **filters))

    async def discard(self, *letters: str, **filters: Any) -> int:
        """Throws dead letters away, for good. See `dq.DeadLetters.discard`."""
        return await in_thread(partial(self._it.discard, *letters, **filters))

"""What is kept of recurring work, so that a tick fires once: who may fire now, and which tick was the last.

**Why no tick fires twice.** Firing is a publish, and a window for `once=` keys is not enough: a worker that is stopped for an
hour between its look at the clock and its publish would fire an old tick anew. So:

1. *One at a time.* Who fires holds the lock of that schedule (a file lock, which the kernel drops with the process, and not
   before: a stopped worker keeps it, however long it is stopped, and nobody fires in its place).
2. *Nothing is fired from memory.* Under the lock, the last fired tick is read from its file, and only later ones are due.
3. *Intent before act.* Before the publish the tick is noted as begun, with the places at which its stream ended; after it, as
   the last one. Both notes are on disk before anything else happens.
4. *An intent that is found* means that its worker was killed, or that its publish had no answer. Then the stream is read from
   the noted places on: if the tick stands there, it was fired; if not, it is published now. What is still under way from the
   dead one to the broker has the same `once=` key, and comes within moments of its death.

Where the records from those places on are trimmed already, it cannot be known any more; the tick then counts as fired.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

TICK_HEADER = "dq-tick"
"""The header of a record that a schedule published: `<schedule>@<instant>`."""


@dataclass(slots=True)
class TickState:
    """What is known of one schedule.

    Attributes:
        last: the last tick that was fired or passed over, seconds since 1970; None: it is new.
        begun: the tick that is being fired, or None.
        place: where its stream ended before that.
    """

    last: float | None = None
    begun: float | None = None
    place: str = ""


class Held(Protocol):
    """One schedule, in the hand of one worker."""

    state: TickState

    def keep(self) -> None:
        """Brings the state to where it outlives this process."""

    def end_of(self, stream: str) -> str:
        """Where a stream ends now."""

    def stands(self, stream: str, mark: str) -> bool:
        """Whether a record with `mark` as its tick stands in a stream, beyond the place in the state."""


class TickStore(Protocol):
    """Keeps the states of schedules."""

    def hold(self, name: str) -> AbstractContextManager[Held | None]:
        """A schedule, for as long as the context lasts; None while another worker has it."""


@runtime_checkable
class KeepsTicks(Protocol):
    """An engine that can keep them. For another one `MemoryTicks` does, and several processes have its `once=` alone."""

    def ticks(self) -> TickStore:
        """The states of schedules, shared by all workers of this broker."""


class _HeldInMemory:
    """As `Held`; what was published is not looked for."""

    def __init__(self, state: TickState) -> None:
        self.state = state

    def keep(self) -> None:
        """It is kept as it stands."""

    def end_of(self, stream: str) -> str:
        return ""

    def stands(self, stream: str, mark: str) -> bool:
        return False


class MemoryTicks:
    """States that last as long as this process."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[threading.Lock, _HeldInMemory]] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def hold(self, name: str) -> Iterator[Held | None]:
        """As `TickStore.hold`."""
        with self._lock:
            lock, held = self._held.setdefault(name, (threading.Lock(), _HeldInMemory(TickState())))
        if not lock.acquire(blocking=False):
            yield None
            return
        try:
            yield held
        finally:
            lock.release()

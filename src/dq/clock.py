"""Wall and monotonic time behind one small class, and a fake one that tests move by hand."""

from __future__ import annotations

import time


class Clock:
    """The real clock: `wall()` for what people read, `monotonic()` for every deadline. Both in seconds."""

    def wall(self) -> float:
        """Seconds since 1970-01-01 UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; never goes back."""
        return time.monotonic()


class FakeClock(Clock):
    """A clock that stands still until a test moves it."""

    def __init__(self, wall: float = 1_700_000_000.0, monotonic: float = 1_000.0) -> None:
        self._wall, self._monotonic = wall, monotonic

    def wall(self) -> float:
        return self._wall

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Moves both times on; deadlines see it."""
        self._wall += seconds
        self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Moves the wall time alone, as an operator or NTP would; deadlines must not see it."""
        self._wall += seconds

"""`HandClock`: a clock that stands still until a test moves it, and does what is to be done on the way."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from dq.clock import FakeClock
from dq.errors import InvalidSetting

Stop = Callable[[], float | None]


class HandClock(FakeClock):
    """A clock that stands still until it is moved.

    Args:
        now: where it begins, an aware datetime; default 2026-01-01 12:00 UTC.
    """

    def __init__(self, now: datetime | None = None) -> None:
        begin = datetime(2026, 1, 1, 12, tzinfo=UTC) if now is None else now
        if begin.tzinfo is None:
            raise InvalidSetting(f"{begin!r} has no time zone: datetime(..., tzinfo=UTC)")
        super().__init__(begin.timestamp())
        self._stops: list[tuple[Stop, Callable[[], None]]] = []
        self._moved: list[Callable[[], None]] = []

    def stop_at(self, when: Stop, act: Callable[[], None]) -> None:
        """Has the clock halt on its way: `when()` tells the next instant (seconds since 1970), at which `act()` is called."""
        self._stops.append((when, act))

    def forget_stops(self) -> None:
        """Halts nowhere any more."""
        self._stops.clear()

    def on_move(self, act: Callable[[], None]) -> None:
        """Has `act()` called whenever the clock was moved."""
        self._moved.append(act)

    @property
    def now(self) -> datetime:
        """The wall time, in UTC."""
        return datetime.fromtimestamp(self.wall(), UTC)

    def advance(self, seconds: float | timedelta) -> None:
        """Moves the clock on, from one instant at which something is to be done to the next."""
        amount = seconds.total_seconds() if isinstance(seconds, timedelta) else float(seconds)
        if amount < 0:
            raise InvalidSetting("a clock goes forward: jump() sets the wall time back, as an operator would")
        end = self._wall + amount
        while True:
            due = [(at, act) for when, act in self._stops if (at := when()) is not None and at <= end]
            if not due:
                break
            at, act = min(due, key=lambda each: each[0])
            self._to(max(at, self._wall))
            act()
        self._to(end)

    def _to(self, wall: float) -> None:
        self._monotonic += wall - self._wall
        self._wall = wall
        for act in self._moved:
            act()

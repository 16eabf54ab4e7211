"""What a publisher broker has committed since its start, and how long that took."""

from __future__ import annotations

from typing import Any

from dq.clock import Clock
from dq.model.histogram import Histogram


class Commits:
    """Counts commits and what they held. It looks at the clock three times a commit, however much that holds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._commits = self._batches = self._records = self._before = 0
        self._arrived: float | None = None
        self._begun = 0.0
        self._flushes, self._stores = Histogram(), Histogram()

    def arrive(self) -> None:
        """A batch waits for the next commit."""
        if self._arrived is None:
            self._arrived = self._clock.monotonic()

    def begin(self) -> None:
        """A commit begins."""
        self._begun, self._before = self._clock.monotonic(), self._records

    def store(self, count: int) -> None:
        """A batch of so many records is stored."""
        self._batches += 1
        self._records += count

    def end(self) -> None:
        """The commit is answered. Its records count from the arrival of its first batch."""
        now = self._clock.monotonic()
        self._commits += 1
        self._flushes.add(now - self._begun)
        arrived, self._arrived = self._arrived, None
        if arrived is not None and self._records > self._before:
            self._stores.add(now - arrived, self._records - self._before)

    def status(self) -> dict[str, Any]:
        """Its figures, as JSON takes them."""
        return {
            "commits": self._commits,
            "batches": self._batches,
            "records": self._records,
            "commit_seconds": self._flushes.to_dict(),
            "store_seconds": self._stores.to_dict(),
        }

"""`Histogram`: how many took how long, in buckets whose bounds grow by about a half each."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Any, Final, Self

_SERIES = (1.0, 1.5, 2.2, 3.3, 4.7, 6.8)
BOUNDS: Final = tuple(round(step * 10.0**power, 9) for power in range(-5, 4) for step in _SERIES)
"""Upper bounds in seconds, inclusive, from 10 us to 6,800 s: the E6 series of preferred numbers (IEC 60063). What is longer
stands behind the last one."""

SHARES: Final[Mapping[str, float]] = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
"""The quantiles that are shown, by name."""


class Histogram:
    """Counts by duration. A quantile is right to within one bucket: from two thirds of the true one to one and a half.

    Attributes:
        counts: of each bucket, and at the end of what was longer than the last bound.
        total: sum of all durations, in seconds, by their weights.
    """

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def add(self, seconds: float, weight: int = 1) -> None:
        """Notes that so many took so long."""
        self.counts[bisect_left(BOUNDS, seconds)] += weight
        self.total += seconds * weight

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)

    def quantile(self, share: float) -> float | None:
        """The duration, in seconds, that such a share (0 to 1) did not exceed; None where there is nothing.

        Within a bucket they are taken as spread evenly; beyond the last bound, that bound is all that is known.
        """
        rank, below = share * self.count, 0
        for index, count in enumerate(self.counts):
            if count and below + count >= rank:
                if index == len(BOUNDS):
                    return BOUNDS[-1]
                low = BOUNDS[index - 1] if index else 0.0
                return low + (BOUNDS[index] - low) * max(rank - below, 0.0) / count
            below += count
        return None

    def quantiles(self) -> dict[str, float | None]:
        """Those of `SHARES`, in seconds, by name."""
        return {name: self.quantile(share) for name, share in SHARES.items()}

    def since(self, earlier: Histogram) -> Histogram:
        """What came to it after it stood like `earlier`; all of it, if it was begun anew meanwhile."""
        found = Histogram()
        counts = [now - then for now, then in zip(self.counts, earlier.counts, strict=True)]
        anew = min(counts) < 0
        found.counts = list(self.counts) if anew else counts
        found.total = self.total if anew else self.total - earlier.total
        return found

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it: [bucket, count] of the buckets that are not empty, and the sum."""
        return {"counts": [[index, count] for index, count in enumerate(self.counts) if count], "total": self.total}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Self:
        """From what `to_dict` made."""
        found = cls()
        for index, count in told["counts"]:
            found.counts[index] = count
        found.total = told["total"]
        return found

"""Which segments of a stream may go: those that every sink has settled, once they are old or the stream is large."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class SegmentStats(NamedTuple):
    """One segment: offsets `first` up to (not with) `end`, `bytes` on disk, last written at `written` (seconds since 1970)."""

    first: int
    end: int
    bytes: int
    written: float


def trim_offset(
    segments: Sequence[SegmentStats], floor: int, keep_seconds: float, bytes_over: int, now: float
) -> tuple[int, int]:
    """Up to which offset a bucket may be trimmed, oldest segment first and never the last one.

    Args:
        segments: of the bucket, oldest first.
        floor: every sink has settled what is below.
        keep_seconds: a settled segment is kept so long after it was last written.
        bytes_over: how many bytes the stream has over what it is to keep; so much goes whatever its age.
        now: wall time in seconds. A jump of the clock costs at most segments that are settled.

    Returns:
        The offset, and how many bytes go with it.
    """
    offset, freed = 0, 0
    for segment in segments[:-1]:
        old = now - segment.written >= keep_seconds
        if segment.end > floor or not (old or freed < bytes_over):
            break
        offset, freed = segment.end, freed + segment.bytes
    return offset, freed

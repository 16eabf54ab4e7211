"""Which segments go: settled, and old or beyond what the stream keeps; oldest first; never the last."""

from __future__ import annotations

import pytest

from dq.log.retention import SegmentStats, trim_offset

SEGMENTS = [SegmentStats(0, 10, 1_000, 100.0), SegmentStats(10, 20, 1_000, 200.0), SegmentStats(20, 30, 1_000, 300.0)]


@pytest.mark.parametrize(
    ("floor", "keep_seconds", "bytes_over", "now", "offset"),
    [
        (0, 0, 10_000, 1_000.0, 0),  # nothing is settled
        (15, 0, 0, 1_000.0, 10),  # a segment goes when all of it is settled
        (30, 0, 0, 1_000.0, 20),  # the last one never
        (30, 850, 0, 1_000.0, 10),  # a young one stays
        (30, 10_000, 0, 1_000.0, 0),  # all are young, and there is room
        (30, 10_000, 1, 1_000.0, 10),  # no room: the oldest goes, young or not
        (30, 10_000, 1_001, 1_000.0, 20),
        (30, 0, 0, 50.0, 0),  # the clock was set back: nothing is old
    ],
)
def test_a_segment_goes_when_it_is_settled_and_old_or_in_the_way(floor, keep_seconds, bytes_over, now, offset):
    trimmed, freed = trim_offset(SEGMENTS, floor, keep_seconds, bytes_over, now)
    assert trimmed == offset
    assert freed == offset * 100


def test_an_unsettled_segment_holds_those_behind_it():
    # Given a sink that has settled all but one record of the first segment
    # Then nothing goes, however old and large the rest is
    assert trim_offset(SEGMENTS, 9, 0, 1 << 40, 1e9) == (0, 0)

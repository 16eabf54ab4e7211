"""Histograms: counts by duration, quantiles to within a bucket, and the difference of two looks."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate, pairwise
from math import ceil

import orjson
from hypothesis import given
from hypothesis import strategies as st

from dq.model.histogram import BOUNDS, Histogram

DURATIONS = st.lists(st.tuples(st.floats(0, 20_000), st.integers(1, 1_000)), max_size=60)


def made(durations: list[tuple[float, int]]) -> Histogram:
    found = Histogram()
    for seconds, weight in durations:
        found.add(seconds, weight)
    return found


def bucket(seconds: float) -> int:
    return bisect_left(BOUNDS, seconds)


def test_bounds_grow_by_about_a_half() -> None:
    assert BOUNDS[0] == 1e-5
    assert BOUNDS[-1] == 6_800
    assert all(1.4 < above / below < 1.6 for below, above in pairwise(BOUNDS))


@given(DURATIONS.filter(bool), st.floats(0.001, 1))
def test_a_quantile_is_in_the_bucket_of_the_true_one(durations, share):
    histogram = made(durations)
    rank = max(ceil(share * histogram.count), 1)
    ordered = sorted(durations)
    ranks = list(accumulate(weight for _, weight in ordered))
    seconds = ordered[bisect_left(ranks, rank)][0]
    found = histogram.quantile(share)
    assert found is not None
    if seconds > BOUNDS[-1]:
        assert found == BOUNDS[-1]
    else:
        low = BOUNDS[bucket(seconds) - 1] if bucket(seconds) else 0.0
        assert low <= found <= BOUNDS[bucket(seconds)]


@given(DURATIONS, DURATIONS)
def test_what_came_between_two_looks(before, between):
    earlier, came = made(before), made(between)
    later = made(before + between)
    assert later.since(earlier).counts == came.counts
    assert came.since(made([])).counts == came.counts
    assert Histogram.from_dict(orjson.loads(orjson.dumps(later.to_dict()))).counts == later.counts


def test_one_that_was_begun_anew_is_taken_whole():
    assert made([(1, 2)]).since(made([(1, 3)])).counts == made([(1, 2)]).counts


def test_nothing_has_no_quantile():
    assert Histogram().quantile(0.5) is None

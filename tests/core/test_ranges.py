import pytest
from hypothesis import given
from hypothesis import strategies as st

from dq.core.ranges import RangeSet

ranges = st.tuples(st.integers(0, 30), st.integers(0, 30))


def offsets(first, stop):
    return set(range(first, stop))


def as_set(range_set):
    return {offset for first, stop in range_set for offset in range(first, stop)}


def test_neighbours_merge_into_one_range():
    made = RangeSet.of([(5, 8), (0, 3), (3, 5)])
    assert list(made) == [(0, 8)]
    assert made.count == len(made) == 8


def test_taking_out_of_the_middle_leaves_two_ranges():
    made = RangeSet(0, 10)
    assert made.discard(3, 5) == 2
    assert list(made) == [(0, 3), (5, 10)]


def test_an_empty_range_changes_nothing():
    made = RangeSet(0, 10)
    assert made.add(5, 5) == made.add(20, 3) == made.discard(7, 2) == 0
    assert made.within(4, 4) == made.cut(4, 4) == []
    assert list(made) == [(0, 10)]


def test_pop_first_takes_the_lowest_and_no_more_than_asked():
    made = RangeSet.of([(2, 5), (8, 9)])
    assert made.pop_first(2) == (2, 4)
    assert made.pop_first(9) == (4, 5)
    assert made.pop_first(0) is None
    assert made.pop_first(9) == (8, 9)
    assert made.pop_first(9) is None
    assert not made
    assert made.first() is None


def test_sets_are_equal_by_what_is_in_them():
    assert RangeSet.of([(0, 2), (2, 4)]) == RangeSet(0, 4) != RangeSet(0, 5)
    assert RangeSet() != 3
    with pytest.raises(TypeError):
        hash(RangeSet())


@given(st.lists(st.tuples(st.booleans(), ranges), max_size=30), ranges)
def test_a_range_set_does_what_a_set_of_offsets_does(steps, probe):
    made, model = RangeSet(), set()
    for adds, (first, stop) in steps:
        before = len(model)
        model = model | offsets(first, stop) if adds else model - offsets(first, stop)
        assert (made.add if adds else made.discard)(first, stop) == abs(len(model) - before)
        assert made.count == len(model)
        assert as_set(made) == model
    edges = [edge for each in made for edge in each]
    assert edges == sorted(set(edges)), "ranges overlap, touch or are empty"
    within = {offset for part in made.within(*probe) for offset in range(*part)}
    assert within == model & offsets(*probe)
    beyond = sorted(offset for offset in model if offset >= probe[0])
    ahead = made.first_from(probe[0])
    assert (ahead[0] if ahead else None) == (beyond[0] if beyond else None)
    assert ahead is None or (offsets(*ahead) <= model and ahead[1] not in model)
    if probe[0] < probe[1]:
        assert made.covers(*probe) == (offsets(*probe) <= model)
    assert [offset in made for offset in range(31)] == [offset in model for offset in range(31)]
    assert made.cut(*probe) == list(RangeSet.of(made_parts(within)))
    assert as_set(made) == model - offsets(*probe)


def made_parts(numbers):
    return [(number, number + 1) for number in numbers]

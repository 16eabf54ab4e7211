"""A filter takes or skips whole batches where their header says enough, and opens only mixed ones."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dq.core.matching import UNKNOWN_TOPICS, Matcher, Taken
from dq.errors import InvalidSetting

TOPICS = st.sampled_from(["", "a", "ab", "b", "orders.eu", "orders.us"])


def test_without_a_filter_all_is_taken() -> None:
    matcher = Matcher()
    assert matcher.takes_all
    assert matcher.takes(None)
    assert [matcher.of_batch(topics) for topics in (None, ("a",), UNKNOWN_TOPICS)] == [Taken.ALL] * 3


@pytest.mark.parametrize(
    ("topics", "taken"),
    [
        (("a",), Taken.ALL),
        (("b",), Taken.NONE),
        (("a", "b"), Taken.SOME),
        (("", "a"), Taken.SOME),
        (("", "b"), Taken.NONE),
        (None, Taken.NONE),
        (UNKNOWN_TOPICS, Taken.SOME),
    ],
)
def test_a_batch_is_judged_by_its_header(topics: tuple[str, ...] | None, taken: Taken) -> None:
    """S7: matching by exact topic."""
    assert Matcher(topic="a").of_batch(topics) is taken


def test_a_pattern_is_searched_for_in_the_topic() -> None:
    """S7: by a regular expression, as text or compiled, anywhere in the topic."""
    for pattern in (r"eu|us$", re.compile(r"eu|us$")):
        matcher = Matcher(pattern=pattern)
        assert matcher.takes("orders.eu.new")
        assert matcher.takes("orders.us")
        assert not matcher.takes("us.orders")
        assert not matcher.takes(None)
    assert Matcher(pattern="^$").of_batch(None) is Taken.ALL


def test_a_bad_pattern_says_so() -> None:
    """S7: a bad one is an error that says so."""
    with pytest.raises(InvalidSetting, match="no regular expression"):
        Matcher(pattern="(")


@given(st.lists(TOPICS, min_size=1, max_size=9), st.sampled_from(["^orders", "a", "^$", "x", "b$"]))
def test_what_is_said_of_a_batch_is_true_of_its_records(topics: list[str], pattern: str) -> None:
    matcher = Matcher(pattern=pattern)
    taken = sum(re.search(pattern, topic) is not None for topic in topics)
    expected = Taken.ALL if taken == len(topics) else Taken.SOME if taken else Taken.NONE
    named = tuple(dict.fromkeys(topics)) if set(topics) != {""} else None
    assert matcher.of_batch(named) is expected


def test_many_topics_take_no_more_memory() -> None:
    matcher = Matcher(pattern="7")
    for number in range(25_000):
        assert matcher.takes(str(number)) == ("7" in str(number))
    assert len(matcher._known) <= 10_000

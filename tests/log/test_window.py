"""What a bucket remembers of its publishers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dq.config import LIMITS
from dq.errors import OutcomeUnknown, SequenceError
from dq.log.format import Malformed
from dq.log.storage import Stored
from dq.log.window import Windows

SMALL = replace(LIMITS, dedupe_batches=3, dedupe_publishers_max=4, dedupe_seconds=100.0)


def stored(windows: Windows, publisher: str, sequence: int, now: float = 0.0) -> None:
    assert windows.find(publisher, sequence, 7, 1, again=False) is None
    windows.stage(publisher, sequence, 7, sequence * 10, 1, now)
    windows.keep(now)


def test_only_the_last_batches_are_known() -> None:
    windows = Windows(SMALL)
    for sequence in range(5):
        stored(windows, "ada", sequence)
    assert windows.find("ada", 2, 7, 1, again=True) == Stored(20, 1, duplicate=True)
    with pytest.raises(OutcomeUnknown):
        windows.find("ada", 1, 7, 1, again=True)


def test_the_publisher_longest_silent_is_forgotten_first() -> None:
    windows = Windows(SMALL)
    for name in ("ada", "bob", "cyd", "dan"):
        stored(windows, name, 0)
    stored(windows, "ada", 1)
    stored(windows, "eve", 0)
    assert set(windows.encode()) == {"cyd", "dan", "ada", "eve"}


def test_a_silent_publisher_is_forgotten_in_time() -> None:
    windows = Windows(SMALL)
    stored(windows, "ada", 0, now=0.0)
    stored(windows, "bob", 0, now=100.0)
    assert set(windows.encode()) == {"ada", "bob"}
    stored(windows, "bob", 1, now=101.0)
    assert set(windows.encode()) == {"bob"}


def test_sinks_are_never_forgotten() -> None:
    windows = Windows(SMALL)
    stored(windows, "sink:mailers", 0, now=0.0)
    for number in range(10):
        stored(windows, f"p{number}", 0, now=1000.0 * number)
    for number in range(10):
        stored(windows, f"q{number}", 0, now=10_000.0)
    assert "sink:mailers" in windows.encode()
    assert len(windows) == 4
    with pytest.raises(SequenceError):
        windows.find("sink:mailers", 2, 7, 1, again=False)


def test_what_is_dropped_was_never_there() -> None:
    windows = Windows(SMALL)
    for sequence in range(3):
        stored(windows, "ada", sequence)
    before = windows.encode()
    for sequence in range(3, 9):
        assert windows.find("ada", sequence, 7, 1, again=False) is None
        windows.stage("ada", sequence, 7, 0, 1, 0.0)
    windows.stage("bob", 0, 7, 0, 1, 0.0)
    windows.drop()
    assert windows.encode() == before


NUMBERS = st.integers(0, 2**32 - 1)
BATCHES = st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=3)


@given(
    st.dictionaries(
        st.text(min_size=1), st.tuples(st.integers(0, 10**9).map(float), st.integers(3, 2**60), BATCHES), max_size=4
    )
)
def test_windows_are_read_as_they_were_written(publishers: dict[str, Any]) -> None:
    fields = {name: [heard, last, [n for b in batches for n in b]] for name, (heard, last, batches) in publishers.items()}
    assert Windows.decode(fields, SMALL).encode() == fields


@pytest.mark.parametrize(
    "value",
    [
        None, 7, [], [1.5, 3], [1.5, 3, []], [1, 3, [1, 2, 3]], [1.5, "3", [1, 2, 3]], [1.5, 3, [1, 2]],
        [1.5, 3, [1, 2, -3]], [1.5, 3, [1, 2, True]], [1.5, 3, "abc"], [1.5, 3, [1, 2, 3], 4], {"a": 1, "b": 2, "c": 3},
    ],
)  # fmt: skip
def test_a_window_that_was_not_written_so_is_malformed(value: object) -> None:
    with pytest.raises(Malformed):
        Windows.decode({"ada": value}, SMALL)

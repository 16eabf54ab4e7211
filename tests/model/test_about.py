"""What a batch may say of all its records, and what not."""

from __future__ import annotations

import pytest

from dq.errors import InvalidName, ProtocolError
from dq.model.about import check_about


@pytest.mark.parametrize(
    ("about", "count"),
    [
        ({}, 3),
        ({"for": "workers", "attempts": 2, "error": "ValueError: 3"}, 3),
        ({"once": "k" * 256}, 1),
        ({"expires": 1.5, "expired": 2}, 500),
    ],
)
def test_what_a_batch_may_say(about, count):
    assert check_about(about, count) == about


@pytest.mark.parametrize(
    ("about", "count", "why"),
    [
        ({"surprise": 1}, 1, "surprise"),
        ({"for": 3}, 1, "for"),
        ({"attempts": True, "for": "s"}, 1, "attempts"),
        ({"attempts": 1}, 1, "no sink"),
        ({"error": "e"}, 1, "no sink"),
        ({"for": "s", "attempts": 1 << 40}, 1, "attempts"),
        ({"for": "s", "error": "e" * 1_001}, 1, "1000"),
        ({"once": ""}, 1, "once"),
        ({"once": "k" * 257}, 1, "256"),
        ({"once": "k"}, 2, "one record"),
        ({"expires": "soon"}, 1, "expires"),
    ],
)
def test_what_no_batch_can_say_is_refused(about, count, why):
    with pytest.raises(ProtocolError, match=why):
        check_about(about, count)


def test_a_sink_that_cannot_be_is_refused():
    with pytest.raises(InvalidName):
        check_about({"for": "../x"}, 1)

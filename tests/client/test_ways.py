"""What delay, once, priority and expires may be, and what is made of them."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dq import InvalidSetting
from dq.client.ways import PRIORITIES_MAX, Way, check_lane, way_of
from dq.client.wishes import LONGEST_SECONDS
from dq.model.about import check_about

NOW = 1_764_000_000.0
MOMENT = datetime.fromtimestamp(NOW, UTC)
ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


def way(delay=None, once=None, priority=0, expires=None) -> Way | None:
    return way_of(delay, once, priority, expires, NOW)


def test_a_plain_publish_has_no_way():
    assert way() is None


@given(seconds=st.floats(0, LONGEST_SECONDS / 2) | st.integers(0, int(LONGEST_SECONDS / 2)), zone=ZONES)
def test_seconds_a_timedelta_and_a_datetime_of_any_zone_mean_the_same(seconds, zone):
    span = timedelta(seconds=seconds)
    for given_as in (seconds, span, MOMENT.astimezone(zone) + span):
        assert way(delay=given_as).due == pytest.approx(NOW + seconds, abs=1e-5)
        assert way(expires=given_as).expires == pytest.approx(NOW + seconds, abs=1e-5)


@given(ago=st.timedeltas(timedelta(0), timedelta(days=365 * 1_000)), zone=ZONES)
def test_a_time_that_is_over_is_due_now_and_has_expired(ago, zone):
    moment = (MOMENT - ago).astimezone(zone)
    assert way(delay=moment).due == NOW
    assert 0 <= way(expires=moment).expires <= NOW


@pytest.mark.parametrize("name", ["delay", "expires"])
@pytest.mark.parametrize(
    "value",
    [
        -0.001, -1, math.nan, math.inf, -math.inf, LONGEST_SECONDS * 1.01, 10**400, True, False, "5", b"5", [5], (), object,
        timedelta(seconds=-1), timedelta.max, datetime(9999, 12, 31, tzinfo=UTC), 1j,
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_what_is_no_time_is_refused_by_name(name, value):
    with pytest.raises(InvalidSetting, match=f"^{name} must") as refused:
        way(**{name: value})
    assert len(str(refused.value)) < 700


@pytest.mark.parametrize("name", ["delay", "expires"])
def test_a_naive_datetime_is_refused_with_what_to_write(name):
    with pytest.raises(InvalidSetting, match=rf"^{name}=.*naive.*datetime\.now\(UTC\)"):
        way(**{name: datetime(2030, 1, 1)})


@pytest.mark.parametrize("once", ["a", "x" * 256, "ü" * 256, "a b\n\0"])
def test_a_key_for_once_is_a_text(once):
    assert way(once=once).once == once
    check_about({"once": way(once=once).once}, 1)


@pytest.mark.parametrize("once", ["", "x" * 257, b"a", 1, True, ["a"], "\ud800"], ids=lambda value: repr(value)[:20])
def test_another_key_for_once_is_refused(once):
    with pytest.raises(InvalidSetting, match=r"^once "):
        way(once=once)


@pytest.mark.parametrize("priority", [-1, 10, 1.0, True, False, None, "1", math.nan], ids=repr)
def test_a_priority_is_a_whole_number_from_0_to_9(priority):
    assert [way(priority=number).priority for number in range(1, PRIORITIES_MAX)] == list(range(1, 10))
    with pytest.raises(InvalidSetting, match=r"^priority must be a whole number from 0 to 9"):
        way(priority=priority)


def test_a_priority_that_the_stream_has_not_is_refused_with_how_to_have_it():
    check_lane("s", 2, 3)
    with pytest.raises(InvalidSetting, match=r"from 0 to 2.*broker\.stream\('s', priorities=10\)"):
        check_lane("s", 3, 3)
    with pytest.raises(InvalidSetting, match="one priority, 0"):
        check_lane("s", 1, 1)


@given(delay=st.floats(0.001, 1e6), expires=st.floats(0.001, 1e6))
def test_what_expires_before_it_is_due_is_refused(delay, expires):
    if NOW + expires <= NOW + delay:
        with pytest.raises(InvalidSetting, match="would never be handed out"):
            way(delay=delay, expires=expires)
    else:
        assert way(delay=delay, expires=expires).expires > way(delay=delay).due


def test_what_stands_in_the_line_and_what_goes_with_it_while_it_waits():
    assert way(delay=1, once="k", priority=3, expires=9).facts() == {"due": NOW + 1, "priority": 3, "expires": NOW + 9}
    assert way(delay=1, once="k", priority=3, expires=9).waiting == Way(once="k")
    assert way(delay=1, priority=3).waiting is None
    assert way(once="k", priority=3).facts() == {}  # its bucket says it

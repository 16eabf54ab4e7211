"""`AppConfig`: its fields, their defaults, and what they may not be."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from dq import InvalidSetting
from dq.app import App, AppConfig
from dq.model.settings import SinkSettings

COUNTS = ["handler_max_attempts", "max_in_flight", "mailbox", "ack_retry_attempts", "ack_retry_queue"]
SECONDS = [
    "reclaim_interval", "poll_idle_sleep", "fetch_seconds", "drain_seconds", "ack_grace", "grow_seconds", "give_back_seconds",
]  # fmt: skip


def test_every_number_has_its_default() -> None:
    """H10: and H3's five attempts, H5's 256 and 1,024, H6's 8 and 1,024."""
    assert asdict(AppConfig()) == {
        "handler_max_attempts": 5, "max_in_flight": 256, "mailbox": 1_024, "ack_retry_attempts": 8, "ack_retry_queue": 1_024,
        "reclaim_interval": 30.0, "poll_idle_sleep": 0.05, "fetch_seconds": 0.5, "drain_seconds": 30.0, "ack_grace": 20.0,
        "grow_seconds": 0.005, "give_back_seconds": 1.0,
    }  # fmt: skip
    assert set(asdict(AppConfig())) == {*COUNTS, *SECONDS}


@pytest.mark.parametrize("field", COUNTS)
def test_a_count_is_from_one_to_a_million(field: str) -> None:
    """H10: a capacity over 1<<20 is refused, and the error names it."""
    assert getattr(AppConfig(**{field: 1 << 20}), field) == 1 << 20
    for wrong in ((1 << 20) + 1, 0, -1, 1.5, True, "8", None):
        with pytest.raises(InvalidSetting, match=rf"^{field} must be a whole number from 1 to 1,048,576 \(1<<20\), not "):
            AppConfig(**{field: wrong})


@pytest.mark.parametrize("field", SECONDS)
def test_seconds_are_numbers_up_to_a_week(field: str) -> None:
    """H10."""
    assert getattr(AppConfig(**{field: 3}), field) == 3
    for wrong in (-0.001, 7 * 86_400 + 1, float("nan"), float("inf"), True, "1", None):
        with pytest.raises(InvalidSetting, match=rf"^{field} must be seconds from "):
            AppConfig(**{field: wrong})


def test_a_handler_may_not_hold_more_than_an_app_may() -> None:
    """H10."""
    with pytest.raises(InvalidSetting, match="max_in_flight must be a whole number"):
        App().handler("s", name="h", max_in_flight=(1 << 20) + 1)(lambda payload: None)


def test_the_attempts_are_those_of_a_sink() -> None:
    """H10: what stands in the log of a sink that nobody set is what an app asks for."""
    assert AppConfig().handler_max_attempts == SinkSettings().max_attempts

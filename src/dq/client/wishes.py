"""What users ask for in seconds, checked by name before anything is done."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from dq.errors import InvalidSetting

LONGEST_SECONDS = 1e9


def seconds_of(name: str, value: object, low: float = 0.0, high: float = LONGEST_SECONDS) -> float:
    """The seconds in a number or a timedelta.

    Raises:
        InvalidSetting: it is neither, or outside the limits; the message names it.
    """
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not low <= seconds <= high:
        raise InvalidSetting(f"{name} must be seconds from {low:g} to {high:g}, or a timedelta, not {value!r}")
    return float(seconds)


def with_seconds(settings: dict[str, Any], *names: str) -> dict[str, Any]:
    """The same settings, those of these names that are a timedelta in seconds."""
    return {
        name: value.total_seconds() if name in names and isinstance(value, timedelta) else value
        for name, value in settings.items()
    }

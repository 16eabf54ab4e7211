"""What users ask for in seconds, checked by name before anything is done."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from dq.errors import InvalidSetting
from dq.model.settings import SinkSettings
from dq.model.start import start_of
from dq.settings.values import settings_of

_FLAGS = {re.IGNORECASE: "i", re.MULTILINE: "m", re.DOTALL: "s", re.VERBOSE: "x", re.ASCII: "a"}

LONGEST_SECONDS = 1e9
_BUCKETS_MAX = 1_000_000


def seconds_of(name: str, value: object, low: float = 0.0, high: float = LONGEST_SECONDS) -> float:
    """The seconds in a number or a timedelta.

    Raises:
        InvalidSetting: it is neither, or outside the limits; the message names it.
    """
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not low <= seconds <= high:
        raise InvalidSetting(f"{name} must be seconds from {low:g} to {high:g}, or a timedelta, not {value!r}")
    return float(seconds)


def reconnect_of(root: Path, wish: float | timedelta | None) -> float:
    """For how many seconds a client looks for a lost broker; None: as the settings of the data directory say.

    Raises:
        InvalidSetting: it is no time; or the settings cannot be read, as LogError says too.
    """
    return float(settings_of(root)["reconnect_timeout"]) if wish is None else seconds_of("reconnect_timeout", wish)


def with_seconds(settings: dict[str, Any], *names: str) -> dict[str, Any]:
    """The same settings, those of these names that are a timedelta in seconds."""
    return {
        name: value.total_seconds() if name in names and isinstance(value, timedelta) else value
        for name, value in settings.items()
    }


def whole_of(name: str, value: object, low: int, high: int) -> int:
    """A whole number within limits. Raises InvalidSetting, which names it."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidSetting(f"{name} must be a whole number from {low:,} to {high:,}, not {value!r}")
    return value


def bucket_chooser(buckets: Sequence[int] | None, rank: int | None, world_size: int | None) -> Callable[[str, int], list[int]]:
    """What says which of the buckets of a stream are to be read, by its name and how many it has.

    Raises:
        InvalidSetting: now, or from what is returned, where the stream has no such bucket.
    """
    if (rank is None) != (world_size is None):
        raise InvalidSetting("rank and world_size belong together: rank=0, world_size=4 reads the buckets 0, 4, 8, …")
    if rank is not None and world_size is not None:
        if buckets is not None:
            raise InvalidSetting("buckets names the buckets, and so do rank and world_size: leave one of them out")
        whole_of("world_size", world_size, 1, _BUCKETS_MAX)
        if isinstance(rank, bool) or not isinstance(rank, int) or not 0 <= rank < world_size:
            raise InvalidSetting(f"rank must be from 0 to {world_size - 1} with world_size={world_size}, not {rank!r}")
        return lambda _, count: list(range(rank, count, world_size))
    if buckets is None:
        return lambda _, count: list(range(count))
    chosen = sorted({whole_of("buckets", bucket, 0, _BUCKETS_MAX) for bucket in buckets})
    if not chosen:
        raise InvalidSetting("buckets=[] would read nothing: leave it out to read all")

    def choose(stream: str, count: int) -> list[int]:
        if chosen[-1] >= count:
            raise InvalidSetting(f"stream {stream!r} has {count} bucket(s), from 0 to {count - 1}: there is no {chosen[-1]}")
        return chosen

    return choose


def sink_wish(
    *,
    start: object = None,
    ack_grace: object = None,
    max_attempts: object = None,
    ordered: object = None,
    no_ack: object = None,
    topic: object = None,
    pattern: object = None,
) -> dict[str, Any]:
    """What is asked of a sink, as it goes over a pipe, checked; what is left out is as the sink has it.

    Raises:
        InvalidSetting, InvalidName: something in it can be granted nowhere.
    """
    wishes = {
        "start": None if start is None else start_of(start, time.time()).text,
        "ack_grace": ack_grace.total_seconds() if isinstance(ack_grace, timedelta) else ack_grace,
        "max_attempts": max_attempts,
        "ordered": ordered,
        "no_ack": no_ack,
        "topic": topic,
        "pattern": pattern_text(pattern),
    }
    wish = {name: value for name, value in wishes.items() if value is not None}
    SinkSettings.from_dict(wish)
    return wish


def pattern_text(pattern: object) -> object:
    """A regular expression as the text that is kept of it; of a compiled one with its flags."""
    if not isinstance(pattern, re.Pattern):
        return pattern
    flags = "".join(letter for flag, letter in _FLAGS.items() if pattern.flags & flag)
    return f"(?{flags}){pattern.pattern}" if flags else pattern.pattern

"""`Way`: how a record is to go: not before a time, not twice, sooner than others, not after a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from dq.client.wishes import LONGEST_SECONDS
from dq.errors import InvalidSetting
from dq.model.about import ONCE_CHARS_MAX
from dq.model.settings import PRIORITIES_MAX
from dq.model.shown import shown

Moment = float | timedelta | datetime | None
"""Seconds or a timedelta from now on, an aware datetime, or None: never."""
PLAIN_PRIORITY: Final = 0


@dataclass(frozen=True, slots=True)
class Way:
    """How a record goes. A record with none of these has no Way, so that it costs nothing.

    Attributes:
        due: wall time, seconds since 1970, before which it is not to come; None: at once.
        once: the key under which it is stored no second time; None: it may be.
        priority: 0 to 9; higher ones come first.
        expires: wall time from which it is of no use; None: never.
        sink: the one that it is for; None: it is for all. For dq's own use.
    """

    due: float | None = None
    once: str | None = None
    priority: int = PLAIN_PRIORITY
    expires: float | None = None
    sink: str | None = None

    def facts(self) -> dict[str, float]:
        """What stands of it in the record's line."""
        found: dict[str, float] = {}
        if self.due is not None:
            found["due"] = self.due
            if self.priority:  # for who moves it on when it is due
                found["priority"] = self.priority
        if self.expires is not None:
            found["expires"] = self.expires
        return found

    @property
    def waiting(self) -> Way | None:
        """How it goes to the stream in which it waits: that has one lane, and hands nothing out."""
        return None if self.once is None else replace(self, due=None, priority=PLAIN_PRIORITY, expires=None)


def way_of(delay: Moment, once: str | None, priority: int, expires: Moment, now: float) -> Way | None:
    """The options of a publish, checked; None where it is a plain one.

    Args:
        now: wall time, seconds since 1970.

    Raises:
        InvalidSetting: one of them means nothing; the message names it.
    """
    due, end = moment_of("delay", delay, now), moment_of("expires", expires, now)
    if due is not None:
        due = max(due, now)
        if end is not None and now < end <= due:
            raise InvalidSetting(
                f"a record that expires {end - now:g} s from now and is delayed for {due - now:g} s would never be handed out: "
                "expires counts from now too, so let it be later than delay"
            )
    if once is not None:
        _check_once(once)
    if isinstance(priority, bool) or not isinstance(priority, int) or not 0 <= priority < PRIORITIES_MAX:
        raise InvalidSetting(f"priority must be a whole number from 0 to {PRIORITIES_MAX - 1}, not {shown(priority)}")
    if due is None and once is None and end is None and priority == PLAIN_PRIORITY:
        return None
    return Way(due, once, int(priority), end)


def moment_of(name: str, value: Any, now: float) -> float | None:
    """The wall time that is meant. One that is over already is no error.

    Raises:
        InvalidSetting: it is no moment; the message names it.
    """
    if value is None:
        return None
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise InvalidSetting(
                f"{name}={shown(value)} is a naive datetime, and nobody knows where on earth it is meant: "
                "give it a timezone, as in datetime.now(UTC) + timedelta(minutes=5)"
            )
        at = value.timestamp()
        if at - now > LONGEST_SECONDS:
            raise InvalidSetting(f"{name} must lie within {LONGEST_SECONDS:g} s from now, and {shown(value)} does not")
        return max(at, 0.0)
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds <= LONGEST_SECONDS:
        raise InvalidSetting(
            f"{name} must be seconds from now, from 0 to {LONGEST_SECONDS:g}, a timedelta, or an aware datetime, "
            f"not {shown(value)}"
        )
    return now + float(seconds)


def _check_once(once: object) -> None:
    if not isinstance(once, str) or not 1 <= len(once) <= ONCE_CHARS_MAX:
        raise InvalidSetting(
            f"once must be a text of 1 to {ONCE_CHARS_MAX} characters, the same for the same record, not {shown(once)}"
        )
    try:
        once.encode()
    except UnicodeEncodeError as error:
        raise InvalidSetting(f"once cannot be written as UTF-8: {error}") from error


def check_lane(stream: str, priority: int, priorities: int) -> None:
    """Raises InvalidSetting where the stream has no such priority."""
    if priority >= priorities:
        lanes = "one priority, 0" if priorities == 1 else f"priorities from 0 to {priorities - 1}"
        raise InvalidSetting(
            f"stream {stream!r} has {lanes}, so none can be published with priority={priority}: "
            f"they are fixed when a stream is made, as by broker.stream({stream!r}, priorities=10)"
        )

"""`Schedule`: at which instants a cron expression ticks, in a time zone. Pure: the time comes in.

`cronsim` reads the expression: small, typed, without dependencies, and as Debian's cron does it when clocks are changed. What
has its time of day ("30 2 * * *") ticks once on such a day too: at the first instant after the gap, where that time is left
out, and the first time, where it comes twice. What has a `*` in its hours or minutes goes on by real time.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from itertools import islice, takewhile
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from dq.errors import InvalidSetting

_WINDOWS = (3_600.0, 86_400.0, 32 * 86_400.0, 366 * 86_400.0, 9 * 366 * 86_400.0)
"""How far back the latest tick is looked for, step by step; 29 February comes within nine years."""


class Schedule:
    """The ticks of a cron expression.

    Args:
        expression: five fields (minute, hour, day of month, month, day of week), or six with the second first.
        timezone: by whose clocks: a name of the IANA data base ("Europe/Berlin"), or a tzinfo; default "UTC".

    Raises:
        InvalidSetting: there is no such expression or time zone, or it never ticks.
    """

    def __init__(self, expression: str, timezone: str | tzinfo = "UTC") -> None:
        self.expression, self.timezone = expression, zone_of(timezone)
        try:
            CronSim(expression, datetime(2024, 1, 1, tzinfo=UTC))
        except (CronSimError, AttributeError) as error:
            raise InvalidSetting(
                f"{expression!r} is no cron expression ({error}): write minute, hour, day of month, month, day of week, "
                'such as "*/5 * * * *", every five minutes'
            ) from error
        if self.next(datetime(2024, 1, 1, tzinfo=UTC).timestamp()) is None:
            raise InvalidSetting(f"{expression!r} never comes: no such day is in the calendar")

    def after(self, wall: float) -> Iterator[float]:
        """The ticks after an instant, in order; both in seconds since 1970."""
        last = wall
        for tick in CronSim(self.expression, datetime.fromtimestamp(wall, self.timezone)):
            instant = tick.timestamp()
            if instant > last:  # in the hour that comes twice, a time of day is given once more
                last = instant
                yield instant

    def next(self, wall: float) -> float | None:
        """The first tick after an instant; None if there is none within 50 years."""
        return next(self.after(wall), None)

    def within(self, after: float, until: float, most: int) -> list[float]:
        """The first `most` ticks in (after, until]."""
        return list(islice(takewhile(lambda tick: tick <= until, self.after(after)), most))

    def latest(self, until: float, after: float) -> float | None:
        """The last tick in (after, until], or None."""
        for window in _WINDOWS:
            begin = max(until - window, after)
            latest = None
            for tick in takewhile(lambda tick: tick <= until, self.after(begin)):
                latest = tick
            if latest is not None or begin == after:
                return latest
        return None


def zone_of(timezone: str | tzinfo) -> tzinfo:
    """The time zone of that name.

    Raises:
        InvalidSetting: there is none.
    """
    if isinstance(timezone, tzinfo):
        return timezone
    if timezone == "UTC":
        return UTC  # also where the system has no data base of time zones
    try:
        return ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError) as error:
        raise InvalidSetting(
            f'there is no time zone {timezone!r}: name one as "Europe/Berlin" (on a system without them, install tzdata)'
        ) from error

"""Options and kinds of arguments that several commands share."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import click

from dq.client.place import root_of

F = TypeVar("F", bound=Callable[..., Any])
_PLACES = {
    "oldest": "oldest", "earliest": "oldest", "beginning": "oldest", "newest": "newest", "latest": "newest", "end": "newest",
}  # fmt: skip
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
_SPAN = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|min|m|h|d|w)?")


class DataDirectory(click.ParamType[Path]):
    """A data directory; the default is found as `dq.connect()` finds it."""

    name = "DIR"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The absolute path."""
        if not value:
            self.fail("an empty path names no directory", param, ctx)
        return root_of(value)


class Span(click.ParamType[float]):
    """A time span: `90`, `1.5s`, `2m`, `1h`, `3d`, in seconds."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        if isinstance(value, (int, float)):
            return float(value)
        found = _SPAN.fullmatch(str(value))
        if found is None:
            self.fail(f"{value!r} is no time span: write seconds, or a number with ms, s, m, h, d or w", param, ctx)
        return float(found[1]) * _UNITS[found[2] or "s"]


class Moment(click.ParamType[timedelta | datetime]):
    """A moment: a time span from now, or a date and time with its zone."""

    name = "WHEN"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta | datetime:
        """A timedelta, or an aware datetime."""
        if isinstance(value, (timedelta, datetime)):
            return value
        if _SPAN.fullmatch(str(value)):
            return timedelta(seconds=Span().convert(value, param, ctx))
        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is neither a time span as 90s or 2h nor a date as 2026-01-31T09:00:00+01:00", param, ctx)
        return moment if moment.tzinfo is not None else moment.astimezone()


def data(function: F) -> F:
    """`--data DIR`: which broker is meant."""
    return click.option(
        "-d", "--data", "root", type=DataDirectory(), default=None, callback=lambda _c, _p, value: value or root_of(None),
        help="The data directory (default: $DQ_DIR, else queue_data, looked for upwards).",
    )(function)  # fmt: skip


def directory(function: F) -> F:
    """`[DIR]`: as `--data`, for commands about a directory as a whole."""
    return click.argument(
        "root", required=False, type=DataDirectory(), metavar="[DIR]", callback=lambda _c, _p, value: value or root_of(None)
    )(function)


def as_json(function: F) -> F:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, an object a line.")(function)


def start_broker(function: F) -> F:
    """`--start`."""
    return click.option(
        "--start", "start_broker", is_flag=True, help="Start a broker if none runs; it leaves 10 s after its last client."
    )(function)


def place_of(text: str) -> str | timedelta | datetime:
    """What a user calls a place in a stream: a word, an id or a position as it is, else a moment that lies back."""
    if text in _PLACES:
        return _PLACES[text]
    if "/" in text or "=" in text:
        return text
    return Moment().convert(text, None, None)


def confirmed(what: str, *, yes: bool) -> None:
    """Asks on a terminal whether to do what cannot be undone; without one it must have been said.

    Raises:
        click.UsageError: nobody can be asked. click.ClickException: it is not to be done.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"this would {what}: say --yes")
    if not click.confirm(f"This would {what}. Go on?", err=True):
        raise click.ClickException("nothing was done")


def examples(*lines: str) -> str:
    """An epilog of examples, which click is not to wrap."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)

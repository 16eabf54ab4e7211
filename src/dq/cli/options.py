"""Options and kinds of arguments that several commands share."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import click

from dq.cli.output import COLOR, CONFIRM, setting_of
from dq.client.place import root_of
from dq.settings.units import TIMES
from dq.settings.values import settings_of

START, CREATE = "start", "create"
F = TypeVar("F", bound=Callable[..., Any])
_PLACES = {
    "oldest": "oldest", "earliest": "oldest", "beginning": "oldest", "newest": "newest", "latest": "newest", "end": "newest",
}  # fmt: skip
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
        return float(found[1]) * TIMES[found[2] or "s"]


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


def _of_settings(context: click.Context, _param: click.Parameter, value: Path | None) -> Path:
    """The data directory; what its settings say of the command line counts from now on. Raises InvalidSetting, LogError."""
    root = value or root_of(None)
    settings = settings_of(root)
    context.meta.update({COLOR: settings["color"], CONFIRM: settings["confirm"]})
    return root


def _data(callback: Callable[..., Path]) -> Callable[[F], F]:
    return click.option(
        "-d", "--data", "root", type=DataDirectory(), default=None, callback=callback,
        help="The data directory (default: $DQ_DIR, else queue_data, looked for upwards).",
    )  # fmt: skip


def data(function: F) -> F:
    """`--data DIR`: which broker is meant."""
    return _data(_of_settings)(function)


def data_alone(function: F) -> F:
    """The same, for commands that say themselves what is wrong with the settings of the directory."""
    return _data(lambda _c, _p, value: value or root_of(None))(function)


def directory(function: F) -> F:
    """`[DIR]`: as `--data`, for commands about a directory as a whole."""
    return click.argument(
        "root", required=False, type=DataDirectory(), metavar="[DIR]", callback=lambda _c, _p, value: value or root_of(None)
    )(function)


def as_json(function: F) -> F:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, an object a line.")(function)


def start_alone(function: F) -> F:
    """`--start`: the command takes "" or "start", and hands it to `dq.cli.reach`."""
    return click.option(
        "--start", "start_broker", flag_value=START, default="",
        help="Start a broker if none runs; it leaves 10 s after its last client.",
    )(function)  # fmt: skip


def start_broker(function: F) -> F:
    """`--start` and `--create`: the same, or "create"."""
    made = click.option(
        "--create", "start_broker", flag_value=CREATE, help="As --start, and make the data directory if there is none."
    )
    return start_alone(made(function))


def if_exists(function: F) -> F:
    """`--if-exists`: where there is none that is no error."""
    return click.option("--if-exists", "if_exists", is_flag=True, help="It is no error if there is none.")(function)


def flags(function: F) -> F:
    """`--set NAME=VALUE`: settings that are stronger than those of the file and the environment."""
    return click.option(
        "--set", "flags", multiple=True, metavar="NAME=VALUE",
        help="A setting, as buckets=4 or log_level=debug; may be given again. `dq config` shows all.",
    )(function)  # fmt: skip


def place_of(text: str) -> str | timedelta | datetime:
    """What a user calls a place in a stream: a word, an id or a position as it is, else a moment that lies back."""
    if text in _PLACES:
        return _PLACES[text]
    if "/" in text or "=" in text:
        return text
    return Moment().convert(text, None, None)


def confirmed(what: str, *, yes: bool) -> None:
    """Asks on a terminal whether to do what cannot be undone; without one it must have been said, here or in the settings.

    Raises:
        click.UsageError: nobody can be asked. click.ClickException: it is not to be done.
    """
    if yes or not setting_of(CONFIRM, True):
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"this would {what}: say --yes")
    if not click.confirm(f"This would {what}. Go on?", err=True):
        raise click.ClickException("nothing was done")


def examples(*lines: str) -> str:
    """An epilog of examples, which click is not to wrap."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)

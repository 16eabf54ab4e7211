"""`-v`, `-q` and `--log-format`: what a command that runs for long says on standard error."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import click

from dq.cli.failures import code_of
from dq.cli.output import remark
from dq.client.place import root_of
from dq.errors import DqError
from dq.model.told import about, words_of
from dq.operator_logs import LogWish, handler_in_use, wished
from dq.settings.table import LOG_FORMATS
from dq.settings.values import settings_of

log = logging.getLogger("dq")
F = TypeVar("F", bound=Callable[..., Any])
_STEP = logging.INFO - logging.DEBUG


def log_options(usual: int) -> Callable[[F], F]:
    """The three options; the command gets `logs`, a `LogWish`.

    Args:
        usual: the level without any of them.
    """

    def options(function: F) -> F:
        @functools.wraps(function)
        def command(*args: Any, verbose: int, quiet: int, log_format: str | None, **named: Any) -> Any:
            root = named.get("root") or root_of(named.get("data") or None)
            said = wished(settings_of(root, named.get("flags", ())).values, usual, None, log_format)
            return function(*args, logs=_wish_of(said, usual, verbose, quiet), **named)

        for option in (
            click.option("--log-format", type=click.Choice(LOG_FORMATS), help="Of the log on standard error (default: auto)."),
            click.option("-q", "--quiet", count=True, help="Log less; again: less still."),
            click.option("-v", "--verbose", count=True, help="Log more; again: that of all libraries too."),
        ):
            command = option(command)
        return command  # type: ignore[return-value]

    return options


def _wish_of(wish: LogWish, usual: int, verbose: int, quiet: int) -> LogWish:
    if not verbose and not quiet:
        return wish
    level = max(usual - verbose * _STEP, logging.DEBUG) if verbose else usual + quiet * _STEP
    others = level if quiet or verbose > 1 else max(level, logging.INFO)
    return replace(wish, level=min(level, logging.ERROR), others=others)


@contextlib.contextmanager
def failing_in_log() -> Iterator[None]:
    """Has an error that ends the command be a line of the log where that is JSON, for whoever reads nothing else there."""
    try:
        yield
    except (DqError, OSError) as error:
        handler = handler_in_use()
        if handler is None or not handler.json:
            raise
        log.critical("%s", words_of(error), extra=about(error))
        raise click.exceptions.Exit(code_of(error)) from error


def say_or_log(text: str) -> None:
    """A last word in words of dq's own: a line of the log where that is JSON."""
    handler = handler_in_use()
    if handler is not None and handler.json:
        log.critical("%s", words_of(text))
    else:
        remark(text)


def again(logs: LogWish) -> list[str]:
    """The options for another process of the same command that is to log so."""
    names = {logging.DEBUG: ["-v"], logging.INFO: [], logging.WARNING: ["-q"], logging.ERROR: ["-qq"]}
    loud = logs.others is not None and logs.others <= logging.DEBUG
    return [*(["-vv"] if loud else names.get(logs.level, [])), "--log-format", logs.form]

"""SIGTERM, for commands that have to tidy up behind themselves."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

import click


@contextlib.contextmanager
def tidied_up() -> Iterator[None]:
    """Has SIGTERM end a command as Ctrl-C does, so that what it has made and started is gone."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise click.exceptions.Exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

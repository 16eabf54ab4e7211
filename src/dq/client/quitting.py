"""A thread that waits for somebody who does not want the result any more: it is asked to quit, and leaves at its next wait.

All waiting of the client core is done in `Link.wait`, and there a thread looks whether it was asked. It has taken nothing by
then, so nothing is lost. `dq.aio` asks, when a coroutine is cancelled.
"""

from __future__ import annotations

import threading


class Quit(Exception):
    """Raised in the thread that was asked to quit."""


class Request:
    """Whether somebody was asked; set once."""

    __slots__ = ("made",)

    def __init__(self) -> None:
        self.made = False


class _OfThisThread(threading.local):
    request: Request | None = None


_HERE = _OfThisThread()


def heed(request: Request | None) -> None:
    """From now on this thread quits when `request` is made."""
    _HERE.request = request


def request_here() -> Request | None:
    """The request that this thread heeds."""
    return _HERE.request


def quit_if_asked() -> None:
    """Raises Quit in a thread that was asked to."""
    if _HERE.request is not None and _HERE.request.made:
        raise Quit

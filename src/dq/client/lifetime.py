"""What happens to client objects at the end of the program and after a fork."""

from __future__ import annotations

import atexit
import contextlib
import os
import weakref
from typing import Protocol

from dq.errors import DqError, Forked


class Mortal(Protocol):
    """An object with a connection."""

    def close(self) -> None:
        """Flushes and closes; safe twice."""

    def after_fork(self, refusal: Forked) -> None:
        """In a forked child: the connection is the parent's. Closes the child's copies; any use raises `refusal`."""


_CLIENTS: weakref.WeakSet[Mortal] = weakref.WeakSet()
_HANDLES: weakref.WeakSet[Mortal] = weakref.WeakSet()


def watch(mortal: Mortal, *, last: bool = False) -> None:
    """Has an object closed at the end of the program, so that acks on their way are not lost by a forgotten `close()`.

    Args:
        last: after the others; a broker must not stop before its publishers have flushed.
    """
    (_HANDLES if last else _CLIENTS).add(mortal)


def _close_all() -> None:
    for mortal in [*_CLIENTS, *_HANDLES]:
        with contextlib.suppress(DqError):
            mortal.close()


def _after_fork_in_child() -> None:
    refusal = Forked("this object was made before a fork and is its parent's: make a new one in the child")
    for mortal in [*_CLIENTS, *_HANDLES]:
        mortal.after_fork(refusal)
    _CLIENTS.clear()
    _HANDLES.clear()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_after_fork_in_child)

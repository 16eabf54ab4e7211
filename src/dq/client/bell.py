"""`Bell`: what one thread waits at, and any other rings, a signal handler too."""

from __future__ import annotations

import contextlib
import queue


class Bell:
    """Rung, it stays so until it is heard.

    A `threading.Event` would be the same but for signal handlers: its lock is not reentrant, so that a handler which rings
    while the thread that it interrupted does so waits for that thread, and that thread for the handler.
    """

    __slots__ = ("_rings",)

    def __init__(self) -> None:
        self._rings: queue.SimpleQueue[None] = queue.SimpleQueue()  # its `put` is reentrant

    def ring(self) -> None:
        """Wakes who waits, or who waits next; safe from any thread and signal handler."""
        if self._rings.empty():  # else it was not heard yet, and will be after what this ring is for was done
            self._rings.put(None)

    def wait(self, timeout: float | None = None) -> None:
        """Waits until it is rung, at most `timeout` seconds (default None: for ever), and hears it. One thread at a time."""
        with contextlib.suppress(queue.Empty):
            self._rings.get(timeout=timeout)
            self.forget()

    def forget(self) -> None:
        """Hears what was rung until now."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._rings.get_nowait()

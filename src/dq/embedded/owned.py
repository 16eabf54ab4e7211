"""What both embedded queues share as owners of a directory: its path, and how they end."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from dq.embedded.store import Store
from dq.errors import Forked


class Owned:
    """A queue over a store, for the one process that has it open.

    `_changed` is the condition, over the store's lock, by which threads wait for items or room.
    """

    _store: Store
    _changed: threading.Condition

    @property
    def path(self) -> Path:
        """Its directory."""
        return self._store.root

    def close(self) -> None:
        """Flushes and lets the next owner in; safe twice. Threads that wait for items get `Closed`."""
        self._store.close()
        with self._store.lock:
            self._changed.notify_all()

    def after_fork(self, refusal: Forked) -> None:
        """In a forked child the queue is its parent's: any use raises `refusal`."""
        self._store.after_fork(refusal)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path}>"

"""Streams of delayed records that could not be opened: nobody asks for them, so that they are tried again by themselves."""

from __future__ import annotations

from collections.abc import Callable

from dq.broker.life import Life
from dq.log.catalog import Catalog, OpenStream
from dq.model.names import LATER_SUFFIX


class Reopening:
    """Tries them every `trim_seconds`: the disk may have room again, or they may have been mended.

    Args:
        life: of the process.
        catalog: the streams.
        opened: told of one that is open now.
    """

    def __init__(self, life: Life, catalog: Catalog, opened: Callable[[OpenStream], None]) -> None:
        self._life, self._catalog, self._opened = life, catalog, opened
        self._at: float | None = None

    @property
    def due(self) -> float | None:
        """When `run_due` is to be called next, in monotonic seconds; None: not before a stream is closed."""
        if not any(name.endswith(LATER_SUFFIX) for name in self._catalog.errors):
            self._at = None
        elif self._at is None:
            self._at = self._life.clock.monotonic() + self._life.limits.trim_seconds
        return self._at

    def run_due(self) -> None:
        """Tries those whose time has come. One that cannot be opened stays as it was."""
        due = self.due
        if due is None or self._life.clock.monotonic() < due:
            return
        self._at = None
        for name in [name for name in self._catalog.errors if name.endswith(LATER_SUFFIX)]:
            stream = self._catalog.reopen(name)
            if stream is not None:
                self._opened(stream)

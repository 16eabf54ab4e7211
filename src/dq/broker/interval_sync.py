"""Flushes in turn, durability "interval" or "backend": of a bucket that was written to, within the seconds its stream says."""

from __future__ import annotations

import logging
from concurrent.futures import Executor, Future

from dq.broker.life import Life
from dq.errors import BackendFailed, StreamReadOnly
from dq.log.backend import StorageWriter
from dq.log.catalog import OpenStream
from dq.model.settings import BY_CLASS
from dq.model.told import about, words_of

log = logging.getLogger("dq")
_FLUSHED_IN_TURN = ("interval", BY_CLASS)


class IntervalSync:
    """Flushes in threads, so that no commit waits for it; a failed flush ends the broker, as every one does.

    Args:
        life: of the process.
        threads: where the flushes run.
    """

    def __init__(self, life: Life, threads: Executor) -> None:
        self._life, self._threads = life, threads
        self._waiting: dict[StorageWriter, float] = {}

    def note(self, stream: OpenStream, bucket: int) -> None:
        """A bucket was committed to."""
        if stream.settings.durability in _FLUSHED_IN_TURN and (writer := stream.writers[bucket]) not in self._waiting:
            self._waiting[writer] = self._life.clock.monotonic() + stream.settings.sync_seconds

    def forget(self, stream: OpenStream) -> None:
        """A stream is about to be destroyed: what of it waits for a flush need not be flushed any more."""
        for writer in stream.writers:
            self._waiting.pop(writer, None)

    @property
    def due(self) -> float | None:
        """When `run_due` is to be called, in monotonic seconds; None: not before the next `note`."""
        return min(self._waiting.values(), default=None)

    def run_due(self) -> None:
        """Begins the flushes whose time has come."""
        if not self._waiting:
            return
        now = self._life.clock.monotonic()
        for writer in [writer for writer, due in self._waiting.items() if due <= now]:
            del self._waiting[writer]
            self._threads.submit(writer.sync).add_done_callback(self._done)

    def _done(self, flush: Future[None]) -> None:
        error = flush.exception()
        if isinstance(error, (BackendFailed, StreamReadOnly)):  # of a class of the user's own, which is asked again
            log.error("%s", words_of(error), extra=about(error))
        elif error is not None:
            self._life.poller.call(lambda: self._life.fail(error))

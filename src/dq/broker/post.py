"""What the consumer broker has the publisher broker store: dead letters of sinks, and delayed records whose time has come."""

from __future__ import annotations

import logging
from collections.abc import Callable

from dq.broker.laters import Laters
from dq.broker.life import Life
from dq.broker.sink_run import SinkRun
from dq.broker.sink_sync import SinkSync
from dq.broker.sinks import Sinks
from dq.log.layout import LATER_LOG
from dq.model.dead_letter import lane_of
from dq.model.event import Event, EventType
from dq.model.told import about, words_told

log = logging.getLogger("dq")
_RETRY_SECONDS = 1.0


class Post:
    """Sends it, and again what may be lost on its way; what comes a second time is known by its number.

    Args:
        life: of the process.
        sinks, laters, sync: of the directory.
        touch: told of a sink that is to be served in this turn.
    """

    def __init__(self, life: Life, sinks: Sinks, laters: Laters, sync: SinkSync, touch: Callable[[SinkRun], None]) -> None:
        self._life, self._sinks, self._laters, self._sync, self._touch = life, sinks, laters, sync, touch
        self._resend_at: float | None = None  # dead letters under way are sent again then
        self._resending: dict[SinkRun, None] = {}

    def due(self) -> float | None:
        """When `turn` is to be called next, in monotonic seconds; None: not before it is told something."""
        moments = [moment for moment in (self._resend_at, self._laters.due()) if moment is not None]
        return min(moments, default=None)

    def answered(self, event: Event) -> None:
        """The publisher broker has stored something, or refused it."""
        publisher, stored = str(event["publisher"]), event.type is EventType.ACK
        if publisher.startswith(LATER_LOG):
            self._laters.answered(event, stored=stored)
        elif stored:
            run = self._sinks.runs.get(publisher.split(":")[1])
            if run is not None and run.letters.publisher == publisher:  # else it is of one that is destroyed
                run.core.dead_letter_stored(lane_of(str(event["stream"])), event["sequence"])
                self._touch(run)
        else:
            log.warning("a dead letter waits: %s", words_told(event["error"], event["message"]), extra=about(event["error"]))
            self._resend_at = self._life.clock.monotonic() + _RETRY_SECONDS

    def turn(self, now: float) -> None:
        """Does what is due. Raises DiskFull, LogError: the log of delayed records cannot be written."""
        if self._resend_at is not None and self._resend_at <= now:
            self._resend_at = None
            self._resend_dead_letters()
        for run, moves in self._laters.turn(now):
            for event in moves:
                self._life.tell(event)
            if run.unsynced:
                self._sync.note(run)

    def send_dead_letters(self, run: SinkRun, now: float) -> None:
        """Writes what a sink has noted, and sends its dead letters that are to be sent. Raises DiskFull, LogError."""
        letters = run.letters.again() if run in self._resending else run.letters.due()
        self._resending.pop(run, None)
        run.write_notes()
        if letters:
            run.sync()  # an intent is on disk before its dead letter is: else it could be written twice
            for event in run.letters.writes(letters):
                self._life.tell(event)
            self._resend_at = now + _RETRY_SECONDS  # they may be lost on their way, to a broker that is just starting

    def again(self) -> None:
        """The publisher broker is another one, or has forgotten what was told it."""
        self._resend_dead_letters()
        self._laters.again()

    def forget(self, run: SinkRun) -> None:
        """A sink is destroyed."""
        self._resending.pop(run, None)

    def _resend_dead_letters(self) -> None:
        for run in self._sinks:
            if run.core.dead_letters():
                self._resending[run] = None
                self._touch(run)

"""All delayed records of a directory, as the consumer broker holds them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

from dq.broker.later import LaterRun
from dq.broker.life import Life
from dq.core.ranges import Range
from dq.errors import DiskFull, DqError, LogError
from dq.log.backend import End
from dq.log.layout import LATER_LOG, Layout
from dq.model.event import Event
from dq.model.names import LATER_SUFFIX, later_stream
from dq.model.told import about, words_of

log = logging.getLogger("dq")
_TRY_SECONDS = 1.0


class Laters:
    """Iterating gives those that are served.

    Attributes:
        closed: streams of delayed records that cannot be served, and why.
    """

    def __init__(self, life: Life) -> None:
        self._life = life
        self._runs: dict[str, LaterRun] = {}
        self._stale: dict[LaterRun, None] = {}
        self.closed: dict[str, DqError] = {}
        self._untold: dict[str, tuple[End, str, int]] = {}  # how far streams are committed that are closed
        self._again_at = 0.0

    def __iter__(self) -> Iterator[LaterRun]:
        return iter(self._runs.values())

    def __contains__(self, run: object) -> bool:
        return any(each is run for each in self)

    def open(self) -> None:
        """Opens what there is a log of. What has none yet is heard of by the first word of a commit."""
        layout = Layout(self._life.root)
        for name in self._life.files.list_directory(layout.sinks):
            if not name.startswith(LATER_LOG) or name.endswith(".gone"):
                continue
            base = name.removeprefix(LATER_LOG)
            try:
                self._life.files.read_whole(layout.stream_file(later_stream(base)), 1 << 20)
            except FileNotFoundError:
                self._destroy_log(base)
                continue
            except OSError:
                pass
            self._open(later_stream(base))

    def _open(self, stream: str) -> LaterRun | None:
        try:
            run = self._runs[stream] = LaterRun(self._life, stream)
        except (LogError, DiskFull) as error:
            if stream not in self.closed:
                log.error(
                    "the delayed records in stream %s wait: %s", stream, words_of(error), extra=about(error, stream=stream)
                )
            self.closed[stream] = error
            return None
        self.closed.pop(stream, None)
        self._stale[run] = None
        return run

    # --- what it is told ---------------------------------------------------------------------------------------------

    def committed(self, stream: str, end: End, uuid: str, epoch: int) -> None:
        """A stream is committed up to `end`; nothing, if it is none of delayed records."""
        if not stream.endswith(LATER_SUFFIX):
            return
        run = self._runs.get(stream) or (self._open(stream) if end.offset or stream in self.closed else None)
        if run is None:
            if stream in self.closed:  # nobody says it again: it is tried again without a word
                self._untold[stream] = end, uuid, epoch
                self._again_at = self._life.clock.monotonic() + _TRY_SECONDS
            return
        self._untold.pop(stream, None)
        self._stale[run] = None
        try:
            run.committed(end, uuid, epoch)
        except (DqError, OSError) as error:
            log.error("the delayed records in stream %s wait: %s", stream, words_of(error), extra=about(error, stream=stream))
            run.why, run.told = str(error), words_of(error)

    def gone(self, stream: str, uuid: str, marks: Iterable[int], removed: Iterable[tuple[int, Range]]) -> None:
        """Records of a stream are gone."""
        run = self._runs.get(stream)
        if run is not None:
            run.gone(uuid, list(marks), list(removed))
            self._stale[run] = None

    def destroyed(self, stream: str) -> None:
        """A stream was destroyed, and what waited in it with it."""
        self._untold.pop(stream, None)
        run = self._runs.pop(stream, None)
        if run is not None:
            self._stale.pop(run, None)
            run.abandon()
        if run is not None or self.closed.pop(stream, None) is not None:
            self._destroy_log(stream.removesuffix(LATER_SUFFIX))

    def _destroy_log(self, base: str) -> None:
        layout = Layout(self._life.root)
        gone = layout.sinks / f".{LATER_LOG}{base}.gone"
        try:
            self._life.files.rename(layout.later(base), gone)
            self._life.files.remove_tree(gone)
        except (OSError, LogError) as error:  # the next start does it
            log.warning(
                "what was known of the delayed records of %s stays for now: %s", base, words_of(error), extra=about(error)
            )

    def again(self) -> None:
        """The publisher broker is another one."""
        for run in self:
            run.again()
            self._stale[run] = None

    def answered(self, event: Event, *, stored: bool) -> None:
        """The publisher broker has stored a batch, or refused it."""
        run = self._runs.get(later_stream(str(event["stream"])))
        if run is not None:
            if stored:
                run.stored(event)
            else:
                run.refused(event)
            self._stale[run] = None

    # --- a turn ------------------------------------------------------------------------------------------------------

    def due(self) -> float | None:
        """When `turn` is to be called next; None: not before it is told something."""
        if self._stale:
            return 0.0
        moments = [due for run in self if (due := run.due()) is not None]
        if self._untold:
            moments.append(self._again_at)
        return min(moments, default=None)

    def turn(self, now: float) -> list[tuple[LaterRun, list[Event]]]:
        """What is to be sent now. Raises DiskFull, LogError: a log cannot be written."""
        if self._untold and self._again_at <= now:
            for stream, word in list(self._untold.items()):
                self.committed(stream, *word)
        if not self._runs:
            return []
        stale, self._stale = self._stale, {}
        return [(run, run.turn(now)) for run in self if run in stale or ((due := run.due()) is not None and due <= now)]

    # --- what it tells -----------------------------------------------------------------------------------------------

    def floors(self) -> dict[tuple[str, int], int]:
        """By shard, the offset below which no delayed record waits any more."""
        return {(run.stream, 0): run.core.floor for run in self}

    def uuid_of(self, stream: str) -> str | None:
        """Which one of its name a stream of delayed records is."""
        run = self._runs.get(stream)
        return run.core.uuid if run is not None else None

    def status(self) -> dict[str, Any]:
        """By stream that they are for, the figures of its delayed records."""
        return {run.base: run.status() for run in self}

    def close(self) -> None:
        """Closes all; what one of them raises costs the others nothing."""
        for run in self:
            try:
                run.close()
            except DqError as error:
                log.error("%s: %s", run.name, words_of(error), extra=about(error))

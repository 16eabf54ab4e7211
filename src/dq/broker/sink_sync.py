"""The flushes of the sinks' logs, and what the publisher broker may delete after them."""

from __future__ import annotations

from concurrent import futures
from concurrent.futures import Future

from dq.broker.later import LaterRun
from dq.broker.laters import Laters
from dq.broker.life import Life
from dq.broker.sink_run import SinkRun
from dq.broker.sink_shards import Shard
from dq.broker.sinks import Sinks
from dq.model.event import Event, EventOwner, EventType


class SinkSync:
    """Flushes every second, in a thread, so that no turn waits for the disk.

    Args:
        life: of the process.
        sinks, laters: of the directory.
    """

    def __init__(self, life: Life, sinks: Sinks, laters: Laters) -> None:
        self._life, self._sinks, self._laters = life, sinks, laters
        self._thread = life.threads(1)
        self._running: Future[None] | None = None
        self._written: dict[SinkRun | LaterRun, None] = {}
        self._told: dict[Shard, int] = {}
        self._at = 0.0

    @property
    def due(self) -> float | None:
        """When `run_due` is to be called, in monotonic seconds; None: not before the next `note`."""
        return self._at if self._written else None

    def note(self, run: SinkRun | LaterRun) -> None:
        """A log was written to."""
        self._written[run] = None

    def run_due(self, now: float) -> None:
        """Begins a flush, if its time has come and the one before it is over."""
        if not self._written or now < self._at or (self._running is not None and not self._running.done()):
            return
        self._at = now + self._life.limits.sink_sync_seconds
        runs = [run for run in self._written if self._sinks.runs.get(run.name) is run or run in self._laters]
        self._written = {}
        floors = self._low_water()
        self._running = self._thread.submit(_sync_all, runs)
        self._running.add_done_callback(lambda done: self._life.poller.call(lambda: self._done(done, floors)))

    def _done(self, done: Future[None], floors: dict[Shard, int]) -> None:
        """What was settled before the sync is settled for good, and the segments below may go."""
        error = done.exception()
        if error is not None:
            self._life.fail(error)
            return
        for shard in [shard for shard in self._told if shard not in floors]:  # no sink is over it any more
            self._tell(shard, 0)
            del self._told[shard]
        for shard, floor in floors.items():
            if self._told.get(shard, 0) != floor:  # it falls where a sink was moved back
                self._tell(shard, floor)
                self._told[shard] = floor
        if self._low_water() != floors:  # what was settled while the sync waited for its thread is told after the next
            self.look_again()

    def _low_water(self) -> dict[Shard, int]:
        """By shard, what nobody needs any more: neither a sink, nor a record that waits for its time."""
        floors = self._sinks.low_water()
        for shard, floor in self._laters.floors().items() if not self._sinks.closed else ():
            floors[shard] = min(floor, floors.get(shard, floor))
        return floors

    def _tell(self, shard: Shard, floor: int) -> None:
        stream, bucket = shard
        fields = {"stream": stream, "bucket": bucket, "offset": floor}
        uuid = self._sinks.uuid_of(stream) or self._laters.uuid_of(stream)
        if uuid is not None:
            fields["uuid"] = uuid  # a stream that was made anew meanwhile is not meant
        self._life.tell(Event(EventType.TRIM, EventOwner.CONSUMER_BROKER, fields))

    def tell_anew(self) -> None:
        """The publisher broker is another one: it knows no floors, and what was told it while it started is lost."""
        self._told.clear()
        self.look_again()

    def forget(self, stream: str) -> None:
        """A stream begins anew, and its offsets with it."""
        for shard in [shard for shard in self._told if shard[0] == stream]:
            del self._told[shard]

    def look_again(self) -> None:
        """What all sinks have settled may be other than was told, though nothing was written. That less is settled needs no
        flush, and is told at once: what a sink was just moved back to, or put over, is not to be deleted meanwhile."""
        floors = self._low_water()
        for shard, told in self._told.items():
            floor = floors.get(shard, told)
            if floor < told:
                self._tell(shard, floor)
                self._told[shard] = floor
        self._written = {**dict.fromkeys(self._sinks), **dict.fromkeys(self._laters)}

    def settle(self) -> None:
        """Waits for the flush that is under way, so that a log can be closed."""
        if self._running is not None:
            futures.wait([self._running])

    def close(self) -> None:
        """Waits for the flush that is under way."""
        self._thread.shutdown()


def _sync_all(runs: list[SinkRun | LaterRun]) -> None:
    for run in runs:
        run.sync()

"""The sinks of a directory, as the consumer broker holds them: opened, found, made, and told how far their streams are."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from dq.broker.life import Life
from dq.broker.opened import check_pushable, undescribe
from dq.broker.sink_run import SinkRun
from dq.errors import BrokerLost, DiskFull, DqError, LogError
from dq.log.backend import End
from dq.log.layout import Layout
from dq.log.sink_file import make_sink, read_sink
from dq.log.stream_file import read_stream
from dq.model.settings import SinkSettings

log = logging.getLogger("dq")
Shard = tuple[str, int]


class Sinks:
    """All sinks. Iterating gives those that are served.

    Attributes:
        runs: those, by name.
        closed: those whose log or settings cannot be used, and why. The others are served.
    """

    def __init__(self, life: Life) -> None:
        self._life = life
        self.runs: dict[str, SinkRun] = {}
        self.closed: dict[str, DqError] = {}
        self._over: dict[str, dict[SinkRun, None]] = {}  # no sets: what comes first is the same in each run
        self._epochs: dict[str, int] = {}
        self._ends: dict[Shard, tuple[int, End]] = {}  # with their epochs, also of streams that no sink is over yet

    def __iter__(self) -> Iterator[SinkRun]:
        return iter(self.runs.values())

    def open(self) -> None:
        """Opens every sink there is."""
        for name in self._life.files.list_directory(Layout(self._life.root).sinks):
            try:
                self._open(name)
            except (LogError, DiskFull) as error:
                self.closed[name] = error
                log.error("sink %s is closed: %s", name, error)
        for stream in self._over:
            self._reopen(stream)

    def _open(self, name: str) -> SinkRun | None:
        """None where there is no such sink, or a kill came between its directory and its settings: nobody was told of it."""
        settings = read_sink(self._life.files, self._life.root, name)
        if settings is None:
            return None
        run = SinkRun(self._life.root, self._life.files, self._life.clock, name, settings, self._life.limits)
        self.closed.pop(name, None)
        self.runs[name] = run
        for stream in sorted(run.streams):
            self._over.setdefault(stream, {})[run] = None
        return run

    def get(self, name: str, wish: dict[str, Any]) -> SinkRun:
        """Finds a sink or makes it.

        Raises:
            SettingsMismatch, InvalidName, InvalidSetting, DiskFull: as their names say. LogError: its log cannot be used.
        """
        run = self.runs.get(name)
        if run is None and name in self.closed:  # it may have been mended meanwhile, or the disk be well again
            run = self._open(name)
        if run is not None:
            run.settings.check_wish("sink", name, wish)
            return run
        settings = SinkSettings.from_dict(wish)
        make_sink(self._life.files, self._life.root, name, settings)
        run = self.runs[name] = SinkRun(self._life.root, self._life.files, self._life.clock, name, settings, self._life.limits)
        self.closed.pop(name, None)
        return run

    # --- their streams -----------------------------------------------------------------------------------------------

    def put_over(self, run: SinkRun, opened: dict[str, Any]) -> bool:
        """Puts a sink over a stream that the publisher broker has opened. Returns whether it is new to the sink.

        Raises:
            BrokerLost: that was an earlier publisher broker, and the stream may have lost its end since; to be asked again.
        """
        check_pushable([opened])
        found, firsts, ends = undescribe(opened)
        if found.epoch < self._epochs.get(found.name, 0):
            now = read_stream(self._life.files, self._life.root, found.name)
            if (now.uuid, now.epoch) != (found.uuid, found.epoch):
                raise BrokerLost(f"stream {found.name!r} was opened anew meanwhile; connect again")
        new = found.name not in run.streams
        run.open_stream(found, firsts, ends)
        self._over.setdefault(found.name, {})[run] = None
        self._epochs.setdefault(found.name, found.epoch)
        for bucket in range(len(ends)):  # what was committed since is told only once, and that may have been before now
            epoch, end = self._ends.get((found.name, bucket), (0, ends[bucket]))
            if epoch == found.epoch:
                run.committed((found.name, bucket), end)
        return new

    def committed(self, shard: Shard, end: End, epoch: int) -> dict[SinkRun, None]:
        """A bucket is committed up to `end`. Returns the sinks over it."""
        self._ends[shard] = (epoch, end)
        over = self._over.get(shard[0])
        if over is None:
            return {}
        if self._epochs.get(shard[0]) != epoch:
            self._reopen(shard[0])
        for run in over:
            run.committed(shard, end)
        return over

    def _reopen(self, stream: str) -> None:
        """Tells the sinks over a stream which one it is now; how far it is committed is told later."""
        try:
            found = read_stream(self._life.files, self._life.root, stream)
        except (DqError, FileNotFoundError) as error:
            log.error("the sinks over stream %s wait: it cannot be read: %s", stream, error)
            return
        self._epochs[stream] = found.epoch
        for run in self._over[stream]:
            run.reopen_stream(found)

    def low_water(self) -> dict[Shard, int]:
        """Per bucket, what every sink over it has settled. Nothing, while it is not known what a closed sink has settled."""
        floors: dict[Shard, int] = {}
        for run in self if not self.closed else ():
            for shard, floor in run.core.floors().items():
                floors[shard] = min(floor, floors.get(shard, floor))
        return floors

"""The sinks of a directory, as the consumer broker holds them: opened, found, made, and told how far their streams are."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from dq.broker.life import Life
from dq.broker.opened import check_pushable, undescribe
from dq.broker.sink_run import SinkRun
from dq.broker.sink_shards import Shard
from dq.core.ranges import Range
from dq.errors import BrokerLost, Damaged, DiskFull, DqError, LogError, UnknownSink
from dq.log.backend import End
from dq.log.files import mapped
from dq.log.layout import Layout
from dq.log.sink_file import SinkFile, destroy_sink, finish_destroying, make_sink, read_sink
from dq.log.stream_file import read_stream
from dq.model.event import Event
from dq.model.names import near_names
from dq.model.settings import SinkSettings
from dq.model.start import parse_start
from dq.model.told import about, words_of
from dq.settings.values import with_defaults

log = logging.getLogger("dq")


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
        self._makings: dict[str, tuple[str, int]] = {}  # of streams, uuid and epoch
        self._ends: dict[Shard, tuple[str, int, End]] = {}  # with uuid and epoch, also of streams that no sink is over yet

    def __iter__(self) -> Iterator[SinkRun]:
        return iter(self.runs.values())

    def open(self) -> None:
        """Opens every sink there is."""
        for name in self._life.files.list_directory(Layout(self._life.root).sinks):
            try:
                if not finish_destroying(self._life.files, self._life.root, name):
                    self._open(name)
            except (LogError, DiskFull) as error:
                self.closed[name] = error
                log.error("sink %s is closed: %s", name, words_of(error), extra=about(error, sink=name))
        for stream in self._over:
            self._reopen(stream)

    def _open(self, name: str) -> SinkRun | None:
        """None where there is no such sink, or a kill came between its directory and its settings: nobody was told of it."""
        path = Layout(self._life.root).sink_settings(name)
        with mapped(path, "delete"), contextlib.suppress(NotADirectoryError):
            self._life.files.drop_unfinished(path)
        found = read_sink(self._life.files, self._life.root, name)
        if found is None:
            return None
        with mapped(path.parent, "flush"):  # a broker before may have been killed before it did so
            self._life.files.sync_directory(path.parent)
        run = self._run(name, found)
        for stream in sorted(run.shards.streams):
            self._over.setdefault(stream, {})[run] = None
        return run

    def _run(self, name: str, content: SinkFile) -> SinkRun:
        life = self._life
        run = SinkRun(life.root, life.files, life.clock, name, content, life.limits)
        self.closed.pop(name, None)
        self.runs[name] = run
        return run

    # --- sinks -------------------------------------------------------------------------------------------------------

    def get(self, name: str) -> SinkRun:
        """Finds a sink.

        Raises:
            UnknownSink: there is none; the message has near names. LogError: its log cannot be used.
        """
        run = self.runs.get(name)
        if run is None and name in self.closed:  # it may have been mended meanwhile, or the disk be well again
            run = self._open(name)
        if run is None:
            hint = near_names(name, self.runs, "sinks")
            raise UnknownSink(f"there is no sink {name!r}: {hint} A consumer makes one if it names the streams for it")
        return run

    def get_or_make(self, name: str, wish: dict[str, Any], opened: Sequence[dict[str, Any]]) -> SinkRun:
        """Finds a sink that is as wished, or makes it.

        Args:
            opened: the streams that it is to be put over.

        Raises:
            SettingsMismatch, InvalidName, InvalidSetting, DiskFull: as their names say. LogError: its log cannot be used.
        """
        try:
            run = self.get(name)
        except UnknownSink:
            settings = SinkSettings.from_dict(with_defaults(self._life.sink_defaults, wish))
            check_pushable(list(opened))
            parse_start(settings.start).check_over({each["stream"]: range(len(each["ends"])) for each in opened})
            return self._run(name, make_sink(self._life.files, self._life.root, name, settings))
        run.settings.check_wish("sink", name, wish)
        return run

    def destroy(self, name: str) -> None:
        """Deletes a sink, and what it knows; also one that is closed. One that does not exist is no error.

        Raises:
            LogError: it is still there, and closed. SyncFailed: the disk did not confirm that it is gone.
        """
        run = self.runs.pop(name, None)
        if run is not None:
            for over in self._over.values():
                over.pop(run, None)
            run.abandon()
        elif self.closed.pop(name, None) is None:
            return
        try:
            destroy_sink(self._life.files, self._life.root, name)
        except LogError as error:
            self.closed[name] = error
            raise

    # --- their streams -----------------------------------------------------------------------------------------------

    def explained(self, error: DqError, event: Event) -> DqError:
        """What keeps from doing what an event asks; one that rests on a stream as it was tells nothing of what is there now."""
        for opened in event.get("opened", ()) if isinstance(error, Damaged) else ():
            try:
                now = read_stream(self._life.files, self._life.root, opened["stream"])
                current = (now.uuid, now.epoch) == (opened["uuid"], opened["epoch"])
            except FileNotFoundError:
                current = False
            except (LogError, OSError):
                current = True
            if not current:
                return BrokerLost(f"stream {opened['stream']!r} was destroyed or opened anew meanwhile; connect again")
        return error

    def put_over(self, run: SinkRun, opened: dict[str, Any], start: str | None = None) -> bool:
        """Puts a sink over a stream that the publisher broker has opened. Returns whether it is new to the sink.

        Args:
            start: where it begins, if it is new to the sink; None: as the sink's settings say.

        Raises:
            InvalidSetting: `start` says nothing of this stream.
            BrokerLost: that was an earlier publisher broker, and the stream may have lost its end since; to be asked again.
        """
        check_pushable([opened])
        found, firsts, ends = undescribe(opened)
        removed = [(bucket, (first, stop)) for bucket, first, stop in opened.get("removed", ())]
        uuid, epoch = self._makings.get(found.name, (found.uuid, 0))
        if uuid != found.uuid or found.epoch < epoch:
            now = read_stream(self._life.files, self._life.root, found.name)
            if (now.uuid, now.epoch) != (found.uuid, found.epoch):
                raise BrokerLost(f"stream {found.name!r} was opened anew meanwhile; connect again")
            self._reopen(found.name)  # it was made anew, and the word that it was destroyed is still on its way
        if found.name not in self._makings and self._over.get(found.name):
            self._reopen(found.name)  # made anew: the other sinks that wait for it hear of it as well
        new = found.name not in run.shards.streams
        run.shards.open(found, firsts, ends, start)
        self._over.setdefault(found.name, {})[run] = None
        self._makings.setdefault(found.name, (found.uuid, found.epoch))
        for bucket in range(len(ends)):  # what was committed since is told only once, and that may have been before now
            uuid, epoch, end = self._ends.get((found.name, bucket), ("", 0, ends[bucket]))
            if (uuid, epoch) == (found.uuid, found.epoch):
                run.shards.committed((found.name, bucket), end)
        run.shards.gone(found.name, firsts, removed)
        return new

    def take_off(self, run: SinkRun, stream: str, *, destroy: bool) -> None:
        """Takes a sink off a stream. Its cursor is kept, unless it is to be destroyed. Raises LogError, DiskFull."""
        run.shards.detach(stream, destroy=destroy)
        if destroy:
            self._over.get(stream, {}).pop(run, None)

    def committed(self, shard: Shard, end: End, uuid: str, epoch: int) -> dict[SinkRun, None]:
        """A bucket is committed up to `end`. Returns the sinks over it."""
        over = self._over.get(shard[0], {})
        if over and not self._is_now(shard[0], uuid, epoch):
            return {}
        self._ends[shard] = (uuid, epoch, end)
        for run in over:
            run.shards.committed(shard, end)
        return over

    def gone(
        self, stream: str, uuid: str, epoch: int, marks: Sequence[int], removed: Sequence[tuple[int, Range]]
    ) -> dict[SinkRun, None]:
        """Records of a stream are gone: those below a mark by bucket, and ranges. Returns the sinks over it."""
        if not self._over.get(stream) or not self._is_now(stream, uuid, epoch):
            return {}  # a mark must not count as what was given out before its epoch: that would be lost
        over = {run: None for run in self._over[stream] if run.shards.knows(stream, uuid)}
        for run in over:
            run.shards.gone(stream, marks, removed)
        return over

    def destroyed(self, stream: str, uuid: str) -> dict[SinkRun, None]:
        """A stream was destroyed. The sinks over it wait for one of that name to be made. Returns them."""
        over = {run: None for run in self._over.get(stream, ()) if run.shards.knows(stream, uuid)}
        for run in over:
            run.shards.forget(stream)
        if self._makings.get(stream, (uuid, 0))[0] == uuid:
            self._forget(stream)
        return over

    def _forget(self, stream: str) -> None:
        for shard in [shard for shard in self._ends if shard[0] == stream]:
            del self._ends[shard]
        self._makings.pop(stream, None)

    def _is_now(self, stream: str, uuid: str, epoch: int) -> bool:
        """Whether a word of a stream is of it as it is now. If not, it is an old one: the new one is said yet."""
        if self._makings.get(stream) != (uuid, epoch):
            self._reopen(stream)
        return self._makings.get(stream) == (uuid, epoch)

    def _reopen(self, stream: str) -> None:
        """Tells the sinks over a stream which one it is now; how far it is committed is told later."""
        try:
            found = read_stream(self._life.files, self._life.root, stream)
        except FileNotFoundError:
            for run in self._over.get(stream, ()):
                run.shards.forget(stream)
            return
        except DqError as error:
            log.error(
                "the sinks over stream %s wait: it cannot be read: %s",
                stream,
                words_of(error),
                extra=about(error, stream=stream),
            )
            return
        if self._makings.get(stream, (found.uuid, 0))[0] != found.uuid:
            self._forget(stream)  # ends of another one of its name
        self._makings[stream] = (found.uuid, found.epoch)
        for run in self._over.get(stream, ()):
            run.shards.reopen(found)

    def uuid_of(self, stream: str) -> str | None:
        """Which one of its name a stream is, as far as a sink over it knows."""
        return next((uuid for run in self._over.get(stream, ()) if (uuid := run.shards.uuid_of(stream)) is not None), None)

    def low_water(self) -> dict[Shard, int]:
        """Per bucket, what every sink over it has settled. Nothing, while it is not known what a closed sink has settled."""
        floors: dict[Shard, int] = {}
        for run in self if not self.closed else ():
            for shard, floor in run.core.floors().items():
                floors[shard] = min(floor, floors.get(shard, floor))
        return floors

    def pins(self) -> dict[str, list[dict[str, Any] | None]]:
        """By stream and bucket, the first record that a sink has not settled, and who has it: it keeps its segment on disk."""
        pins: dict[Shard, dict[str, Any]] = {}
        for run in self:
            for shard, pin in run.pins().items():
                if shard not in pins or pin["offset"] < pins[shard]["offset"]:
                    pins[shard] = pin
        buckets: dict[str, int] = {}
        for stream, bucket in pins:
            buckets[stream] = max(buckets.get(stream, 0), bucket + 1)
        return {stream: [pins.get((stream, bucket)) for bucket in range(count)] for stream, count in buckets.items()}

"""A world with both brokers, their clients and a disk, in one thread: what happens is drawn from a seed, for replay."""

from __future__ import annotations

import contextlib
import errno
import random
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

from sim_changes import Changes
from sim_checker import BrokenPromise, Checker, Sink
from sim_clients import SimPublisher, Stage
from sim_consumer import SimConsumer
from sim_files import DirectoryNode, MemoryFiles
from sim_life import ROOT, SimThreads
from sim_manager import Broker, Machine, SimManager
from sim_once import WINDOW
from sim_reader import SimReader
from sim_wires import Wires

from dq.clock import FakeClock
from dq.core.matching import Matcher
from dq.log.backend import JsonBackend
from dq.log.bucket_log import BucketLog
from dq.log.sink_log import SinkLog
from dq.model.event import Event, EventType
from dq.model.names import LATER_SUFFIX, later_stream

_DRAIN_TURNS = 6_000
_RETENTIONS: tuple[dict[str, Any], ...] = ({}, {}, {}, {"retention": "forever"}, {"retention": "limits", "max_records": 30})
_KINDS: tuple[dict[str, Any], ...] = ({}, {}, {}, {"ordered": True}, {"ordered": True}, {"no_ack": True})
_FILTERS: tuple[dict[str, Any], ...] = ({}, {}, {}, {"topic": "mail.new"}, {"pattern": "^mail"})


class Wedged(BrokenPromise):
    """Nothing moves any more, and not all is done."""


class World:
    """One simulated machine.

    Args:
        seed: what happens in it.
    """

    def __init__(self, seed: int) -> None:
        self.chance = chance = random.Random(seed)
        self.clock, self.wires, self.checker = FakeClock(), Wires(chance), Checker()
        self.checker.delays.begin(self.clock)
        self.machine = Machine(chance, self.clock, self.wires, self.checker, DirectoryNode())
        self.machine.disk().add(ROOT, None)
        self.manager = SimManager(self.machine)
        for broker in self.manager.brokers:
            broker.on_opened = self._opened
        self.stage = Stage(self.manager, self.clock, chance, self.checker)
        self.publishers: list[SimPublisher] = []
        self.consumers: list[SimConsumer] = []
        self.readers: list[SimReader] = []
        self.changes = Changes(self)
        self._full_turns = 0
        self._draw_settings()

    def _draw_settings(self) -> None:
        chance, checker = self.chance, self.checker
        self.streams: dict[str, dict[str, Any]] = {}
        for name in ("work", "more")[: chance.choice((1, 1, 2))]:
            durability = chance.choice(("sync", "sync", "sync", "interval", "os"))
            checker.durabilities[name] = durability
            checker.over[name] = []
            self.streams[name] = {
                "buckets": chance.randint(1, 3), "durability": durability, "segment_bytes": 4096, "keep_bytes": 0,
                "keep_seconds": 0.0, "sync_seconds": 0.5, "once_seconds": WINDOW, **chance.choice(_RETENTIONS),
            }  # fmt: skip
            if self.streams[name].get("retention") == "limits":
                checker.given_up.limited.add(name)
        self.stage.streams = self.manager.settings = self.streams
        self.sinks: dict[str, tuple[list[str], dict[str, Any]]] = {}
        for name in ("left", "right")[: chance.choice((1, 2))]:
            over = sorted(chance.sample(list(self.streams), chance.randint(1, len(self.streams))))
            settings: dict[str, Any] = {"ack_grace": chance.choice((1.0, 4.0, 20.0)), "max_attempts": chance.randint(2, 4)}
            settings |= chance.choice(_KINDS)
            settings |= chance.choice(_FILTERS)
            self.sinks[name] = (over, settings)
            checker.sinks[name] = sink = Sink(settings["max_attempts"], no_ack="no_ack" in settings)
            sink.wants = Matcher(settings.get("topic"), settings.get("pattern")).takes
            for stream in over:
                checker.over[stream].append(name)

    # --- time goes by ----------------------------------------------------------------------------------------------

    def spin(self) -> None:
        """Everybody has a turn, in any order."""
        chance = self.chance
        self.clock.advance(chance.choice((0.0, 0.001, 0.004, 0.02)))
        self.wires.deliver()
        parts: list[Any] = [*self.manager.brokers, self.manager, *self.publishers, *self.consumers, *self.readers, self.changes]
        chance.shuffle(parts)
        for part in parts:
            part.spin()
        self.checker.counts["turns"] += 1
        if self._full_turns:
            self._full_turns -= 1
            if not self._full_turns:
                self.machine.room.free = None
        self.publishers = [client for client in self.publishers if not client.gone]
        self.consumers = [client for client in self.consumers if not client.gone]
        self.readers = [client for client in self.readers if not client.gone]

    def disk(self) -> MemoryFiles:
        """As it is now, for whoever looks on."""
        return MemoryFiles(self.machine.root)

    def _opened(self, broker: Broker, name: str | None) -> None:
        service = broker.service
        if broker.is_publishers:
            disk = MemoryFiles(self.machine.root)
            catalog = service._catalog
            self.checker.publisher_broker_opened(
                disk, catalog.streams, catalog.errors, [name] if name else list(catalog.streams)
            )
        else:
            self.checker.consumer_broker_opened(service._sinks.runs, service._sinks.closed)

    # --- the play --------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Streams and sinks are made while nothing fails."""
        self.manager.start_brokers()
        opened: list[Event] = []
        for name, settings in self.streams.items():
            fields = {"stream": name, "create": True, "settings": settings}
            self.manager.ask(self.manager.publisher_broker, EventType.OPEN, fields, opened.append)
        for name in self.sinks:
            self.add_consumer(name)
        self.until(lambda: len(opened) == len(self.streams) and all(c.welcome for c in self.consumers), "it does not begin")
        assert all(event.type is EventType.ACK for event in opened), opened
        for broker in self.manager.brokers:
            self.until(lambda broker=broker: broker.ready, "a broker does not begin")  # type: ignore[misc]

    def until(self, done: Callable[[], bool], why: str, turns: int = 400) -> None:
        for _ in range(turns):
            if done():
                return
            self.spin()
        raise Wedged(f"{why}: {self.state()}")

    def add_consumer(self, sink: str) -> None:
        streams, settings = self.sinks[sink]
        self.consumers.append(SimConsumer(self.stage, sink, streams, settings))

    def play(self, actions: int) -> None:
        for _ in range(actions):
            self.checker.counts["actions"] += 1
            act = self.chance.choices(_ACTS, _WEIGHTS)[0]
            act(self)
            for _ in range(self.chance.choice((1, 1, 2, 5))):
                self.spin()

    # --- what can happen ---------------------------------------------------------------------------------------------

    def publish(self) -> None:
        if len(self.publishers) < self.chance.randint(1, 3):
            stream = self.chance.choice(list(self.streams))
            if stream not in self.changes.busy:
                delayed = self.chance.random() < 0.25
                self.publishers.append(SimPublisher(self.stage, later_stream(stream) if delayed else stream))
        else:
            self.chance.choice(self.publishers).publish(self.chance.choice((1, 1, 3, 8)))

    def consume(self) -> None:
        if len(self.consumers) < 3:
            self.add_consumer(self.chance.choice(list(self.sinks)))

    def publisher_goes(self) -> None:
        if self.publishers:
            client = self.chance.choice(self.publishers)
            if self.chance.random() < 0.5:
                client.die()
            else:
                client.give_up()

    def consumer_goes(self) -> None:
        if self.consumers:
            client = self.chance.choice(self.consumers)
            self.chance.choice((client.die, client.leave, client.leave, client.slow_down))()

    def consumer_stalls(self) -> None:
        if self.consumers:
            client = self.chance.choice(self.consumers)
            client.stalled_until = self.clock.monotonic() + client.hand.grace * self.chance.choice((0.5, 1.2, 3.0))

    def kill(self) -> None:
        """One broker, or both; at once, or in the middle of something."""
        self.checker.counts["kills"] += 1
        brokers = self.chance.choice((self.manager.brokers[:1], self.manager.brokers[1:], self.manager.brokers))
        for broker in brokers:
            broker.kill(self.chance.choice((0, 0, self.chance.randint(1, 40))))

    def stop_and_start(self) -> None:
        self.checker.counts["clean stops"] += 1
        self.manager.stop()
        self.changes.manager_gone()
        for _ in range(self.chance.randint(0, 3)):
            self.spin()
        self.clock.advance(self.chance.choice((0.0, 1.0, 100.0)))
        self.manager.start_brokers()

    def cut_power(self) -> None:
        """The machine loses its power: clients too; the disk keeps what was flushed, and by chance more."""
        for broker in self.manager.brokers:
            if broker.service is not None and self.chance.random() < 0.5:  # in the middle of something
                broker.kill(self.chance.randint(1, 30))
        for _ in range(self.chance.randint(0, 2)):
            self.spin()
        for client in (*self.publishers, *self.consumers, *self.readers):
            client.die()
        self.publishers, self.consumers, self.readers = [], [], []
        root = MemoryFiles(self.machine.root).power_cut(self.chance)._root
        self.checker.power_cut()
        self.manager.lose_power(root)
        self.changes.manager_gone()
        self.clock.advance(self.chance.choice((1.0, 500.0)))
        self.manager.start_brokers()

    def fill_disk(self) -> None:
        self.checker.counts["full disks"] += 1
        self.machine.room.free = self.chance.choice((0, 100, 3_000))
        self._full_turns = self.chance.randint(5, 60)

    def fail_flush(self) -> None:
        """The next flush of one broker fails, or one soon after."""
        broker = self.chance.choice(self.manager.brokers)
        if broker.service is not None:
            broker.life.files.fail_next("fdatasync", errno.EIO, self.chance.choice((0, 0, 1, 3)))

    def pass_time(self) -> None:
        self.clock.advance(self.chance.choice((0.05, 0.3, 1.1, 6.0, 60.0)))

    def jump_wall(self) -> None:
        self.clock.jump(self.chance.choice((-86_400.0, -5.0, 5.0, 600.0)))
        self.checker.delays.wall_jumped()

    def change_sink(self) -> None:
        """A user wants something of a sink as a whole."""
        name, changes = self.chance.choice(list(self.sinks)), self.changes
        if name not in changes.busy and not changes.busy & set(self.sinks[name][0]):
            acts = (
                changes.pause_or_resume,
                changes.pause_or_resume,
                changes.seek,
                changes.take_off_or_put_back,
                changes.destroy_sink,
                changes.take_back,
                changes.take_back,
            )
            self.chance.choice(acts)(name)

    def change_stream(self) -> None:
        """A user wants something of a stream as a whole."""
        name, changes = self.chance.choice(list(self.streams)), self.changes
        if name not in changes.busy:
            acts = (changes.trim, changes.remove, changes.remove, changes.destroy_stream, changes.give_up_delayed)
            self.chance.choice(acts)(name)

    def read(self) -> None:
        if not self.readers:
            self.readers.append(SimReader(self.stage))
        elif self.chance.random() < 0.3:
            self.readers.append(self.readers.pop().again())

    # --- the end -----------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Nothing fails any more: all is to be published, delivered and settled without help."""
        self._full_turns, self.machine.room.free = 0, None
        for broker in self.manager.brokers:
            broker.life.files.heal()
            broker.life.files.calls_left = None
        self.clock.jump(self.checker.delays.behind())  # else keys for once are kept so long
        self.checker.delays.wall_jumped()
        self._undo_changes()
        self.publishers += [SimPublisher(self.stage, name) for name in self.streams]  # a stream that is closed is tried again
        for turn in range(_DRAIN_TURNS):
            for sink in self.sinks:
                if not any(client.sink == sink and not client.leaving for client in self.consumers):
                    self.add_consumer(sink)
            for client in self.publishers:
                client.push_all()
            self.spin()
            self.clock.advance(0.02)
            if turn % 10 == 0 and self.quiet():
                waits = self.seconds_until_due()  # nothing of their stream is kept for those that wait: it is quiet
                if waits is None:
                    break
                self.clock.advance(waits)
        else:
            raise Wedged(f"it does not come to its end: {self.state()}")
        catalog = self.manager.publisher_broker.service._catalog
        self.checker.check_logs(MemoryFiles(self.machine.root), catalog.streams)
        for run in self.manager.consumer_broker.service._sinks:
            self.checker.counts["expired"] += run.core.stats().expired
        self.checker.check_end()
        self.checker.check_refused()

    def _undo_changes(self) -> None:
        """Nothing is paused, and every sink is over all its streams."""
        for name in self.sinks:
            self.checker.sinks[name].paused = False
            self.changes.resume(name)
        for name, stream in sorted(self.changes.off):
            self.changes.put_back(name, stream)

    def quiet(self) -> bool:
        """Whether all that can be done is done."""
        publisher_broker, consumer_broker = (broker.service for broker in self.manager.brokers)
        if publisher_broker is None or consumer_broker is None or not all(client.idle for client in self.publishers):
            return False
        if not self.changes.idle or not all(reader.at_end for reader in self.readers):
            return False
        streams = publisher_broker._catalog.streams
        over_all = {stream for over, _ in self.sinks.values() for stream in over}
        for name, (over, _) in self.sinks.items():
            run = consumer_broker._sinks.runs.get(name)
            if run is None or run.core.dead_letters():
                return False
            floors = run.core.floors()
            for stream in over:
                ends = [writer.end.offset for writer in streams[stream].writers] if stream in streams else [-1]
                if [floors.get((stream, bucket)) for bucket in range(len(ends))] != ends:
                    return False
        # What all sinks have settled goes.
        settled = [name for name in over_all if name in streams and streams[name].settings.retention == "settled"]
        kept = [writer.stats().segments for name in settled for writer in streams[name].writers]
        return max(kept, default=0) <= 1

    def seconds_until_due(self) -> float | None:
        """When the next delayed record is to come; None where none waits."""
        publisher_broker, consumer_broker = (broker.service for broker in self.manager.brokers)
        now = self.clock.monotonic()
        moments = [now + 1.0 for name in publisher_broker._catalog.errors if name.endswith(LATER_SUFFIX)]
        for name, stream in publisher_broker._catalog.streams.items():
            run = consumer_broker._laters._runs.get(name)
            end = stream.writers[0].end.offset
            if name.endswith(LATER_SUFFIX) and end and (run is None or run.core.floor < end):
                due = run.core.first_due() if run is not None else None
                moments.append(now if due is None else due)
        return max(min(moments) - now, 0.0) if moments else None

    def state(self) -> str:
        """For whoever has to find out why."""
        lines = [f"clock {self.clock.monotonic():.3f}"]
        lines += [f"{broker.owner}: ready {broker.ready}, error {broker.last_error!r}" for broker in self.manager.brokers]
        lines.append(f"changes: {self.changes.busy}, {self.changes._open}, {self.changes._later}")
        lines += [f"{reader.id}: {reader.welcome}, at end {reader.at_end}, {reader.core.position()}" for reader in self.readers]
        for client in (*self.publishers, *self.consumers):
            idle = isinstance(client, SimConsumer) or client.idle
            lines.append(f"{client.id}: welcome {client.welcome}, connected {client.end is not None}, idle {idle}")
        service = self.manager.consumer_broker.service
        lines += [
            f"{run.name}: {run.core.stats()}, damaged {run.shards.damaged}" for run in (service._sinks if service else ())
        ]
        service = self.manager.publisher_broker.service
        if service is not None:
            lines.append(str({n: [w.stats() for w in s.writers] for n, s in service._catalog.streams.items()}))
        return "\n".join(lines)


_CHOICES: list[tuple[Callable[[World], None], int]] = [
    (World.publish, 50), (World.consume, 8), (World.publisher_goes, 3), (World.consumer_goes, 5), (World.consumer_stalls, 3),
    (World.kill, 4), (World.stop_and_start, 1), (World.cut_power, 1), (World.fill_disk, 2), (World.fail_flush, 2),
    (World.pass_time, 8), (World.jump_wall, 2), (World.change_sink, 3), (World.change_stream, 2), (World.read, 3),
]  # fmt: skip
_ACTS = [act for act, _ in _CHOICES]
_WEIGHTS = [weight for _, weight in _CHOICES]


@contextlib.contextmanager
def determined(seed: int, clock: FakeClock) -> Iterator[None]:
    """What dq draws from the system itself comes from the seed and the clock as well."""
    drawn = random.Random(f"drawn {seed}")

    class ByTheClock(JsonBackend):
        @classmethod
        def open_writer(cls, place: Any, identity: Any, clean: Any) -> BucketLog:
            settings = {"wall": clock.wall, "durability": place.durability}
            return BucketLog.open(place.files, place.directory, identity, place.segment_bytes, clean, place.limits, **settings)

    time = SimpleNamespace(time=clock.wall, monotonic=clock.monotonic)
    with (
        mock.patch("dq.core.sink.Random", side_effect=lambda: random.Random(drawn.random())),
        mock.patch("dq.log.catalog.uuid4", side_effect=lambda: f"{drawn.getrandbits(128):032x}"),
        mock.patch("dq.log.sink_file.uuid4", side_effect=lambda: SimpleNamespace(hex=f"{drawn.getrandbits(128):032x}")),
        mock.patch("dq.broker.sink_sync.futures", SimThreads),
        mock.patch("dq.model.settings._LATER_SEGMENT_BYTES", 4096),
        mock.patch("dq.log.catalog.backend_of", return_value=ByTheClock),
        mock.patch("dq.broker.sink_run.SinkLog", SimpleNamespace(open=partial(SinkLog.open, wall=clock.wall))),
        mock.patch("dq.broker.later.SinkLog", SimpleNamespace(open=partial(SinkLog.open, wall=clock.wall))),
        mock.patch("dq.client.hand.time", time),
        mock.patch("dq.client.held_lease.time", time),
    ):
        yield


def simulate(seed: int) -> World:
    """Plays one world to its end. Raises BrokenPromise, or whatever dq raises by its own fault."""
    world = World(seed)
    with determined(seed, world.clock):
        world.begin()
        world.play(world.chance.choice((30, 60, 100)))
        world.drain()
    return world

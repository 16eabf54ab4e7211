"""What users do in a simulated world with streams and sinks as a whole, and what may be different from then on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sim_checker import BrokenPromise, Place
from sim_life import LAYOUT, ROOT, SMALL

from dq.broker.trimming import share_of
from dq.errors import DqError, by_name
from dq.log.stream_file import read_stream
from dq.log.unserved import end_of
from dq.model.event import Event, EventType
from dq.model.names import later_stream

if TYPE_CHECKING:
    from sim_world import World

_NO_WONDER = ("DiskFull", "LogError", "SyncFailed", "InUse", "BrokerLost", "UnknownSink", "UnknownStream")
Then = Callable[[Event | None], None]


class Changes:
    """Asks for changes. One that was not answered before its manager ended may have been done or not.

    Attributes:
        paused: sinks that were told to pause.
        off: streams that a sink was taken off, as (sink, stream).
        busy: sinks and streams that are being changed.
    """

    def __init__(self, world: World) -> None:
        self._world, self._manager, self._checker = world, world.manager, world.checker
        self.paused: set[str] = set()
        self.off: set[tuple[str, str]] = set()
        self.busy: set[str] = set()
        self._open: list[Then] = []
        self._later: list[Callable[[], None]] = []

    @property
    def idle(self) -> bool:
        return not self._open and not self._later

    def spin(self) -> None:
        """Asks again for what is to be done in the end."""
        if self._manager.up and self._later:
            later, self._later = self._later, []
            for ask in later:
                ask()

    def manager_gone(self) -> None:
        """Nobody answers any more what was asked."""
        for answered in list(self._open):
            answered(None)

    def _ask(self, kind: str, name: str, what: str, then: Then, **fields: Any) -> None:
        self._checker.counts[f"{kind}: {what}"] += 1

        def answered(event: Event | None) -> None:
            if answered in self._open:
                self._open.remove(answered)
                if event is not None and event.type is EventType.NACK and not self._is_no_wonder(event["error"]):
                    raise BrokenPromise(f"{what} of {kind} {name} was refused: {by_name(event['error'], event['message'])!r}")
                then(event)

        self._open.append(answered)
        self._manager.change(kind, {"name": name, "what": what, **fields}, answered)

    @staticmethod
    def _is_no_wonder(error: str) -> bool:
        return error in _NO_WONDER

    def _in_the_end(self, kind: str, name: str, what: str, then: Callable[[], None], **fields: Any) -> None:
        """As `_ask`, until it is done."""

        def ask() -> None:
            self._ask(kind, name, what, answered, **fields)

        def answered(event: Event | None) -> None:
            if event is not None and event.type is EventType.ACK:
                then()
            else:
                self._later.append(ask)

        ask()

    # --- sinks -------------------------------------------------------------------------------------------------------

    def _next_lease(self, name: str) -> int | None:
        service = self._manager.consumer_broker.service
        run = service._sinks.runs.get(name) if service is not None else None
        return None if run is None else run.core._book.next_lease

    def _moving(self, name: str) -> Callable[[], None]:
        """A sink is about to begin anew. Returns what is to be called when it has."""
        sink = self._checker.sinks[name]
        self._checker.moved(name, None)
        sink.moving += 1
        self.busy.add(name)

        def done() -> None:
            sink.moving -= 1
            self.busy.discard(name)
            self._checker.moved(name, self._next_lease(name))

        return done

    def pause_or_resume(self, name: str) -> None:
        sink = self._checker.sinks[name]
        if name in self.paused:
            self.resume(name)
            return

        def answered(event: Event | None) -> None:
            if event is not None and event.type is EventType.ACK and name in self.paused:
                sink.paused = True

        self.paused.add(name)
        self._ask("sink", name, "pause", answered)

    def resume(self, name: str) -> None:
        self.paused.discard(name)
        self._checker.sinks[name].paused = False
        self.busy.add(name)
        self._in_the_end("sink", name, "resume", lambda: self.busy.discard(name))

    def take_back(self, name: str) -> None:
        """Records out of the hands that have them, in the middle of their leases; or all of a consumer's."""
        service = self._manager.consumer_broker.service
        run = service._sinks.runs.get(name) if service is not None else None
        held = run.core.holders.listed(50) if run is not None else []
        if not held:
            return
        one = self._world.chance.choice(held)
        self._checker.counts["taken back"] += 1
        if self._world.chance.random() < 0.3:
            self._ask("sink", name, "release", lambda _: None, wish={"consumer": one.consumer})
            return
        first, stop = one.open[0]
        chosen = self._world.chance.sample(range(first, stop), self._world.chance.randint(1, min(stop - first, 3)))
        ids = [f"{one.shard[0]}/{one.shard[1]}/{offset}" for offset in chosen]
        self._ask("sink", name, "release", lambda _: None, ids=[*ids, f"{one.shard[0]}/0/999999"])

    def seek(self, name: str) -> None:
        chance, over = self._world.chance, self._world.sinks[name][0]
        wall = self._world.clock.wall() - chance.choice((0.1, 3.0, 100.0))
        start = chance.choice(("oldest", "oldest", "newest", _instant(wall)))
        done = self._moving(name)
        streams = [stream for stream in over if (name, stream) not in self.off]
        self._ask("sink", name, "seek", lambda _: done(), wish={"start": start}, streams=streams)

    def take_off_or_put_back(self, name: str) -> None:
        for sink, stream in sorted(self.off):
            if sink == name:
                self.put_back(sink, stream)
                return
        stream = self._world.chance.choice(self._world.sinks[name][0])
        self.off.add((name, stream))
        if self._world.chance.random() < 0.5:  # it keeps its cursor
            self._ask("sink", name, "remove_stream", lambda _: None, wish={"stream": stream})
            return
        done = self._moving(name)

        def put_back() -> None:
            self.off.discard((name, stream))
            self._in_the_end("sink", name, "add_stream", done, streams=[stream], wish={"start": "oldest"}, create=True)

        self._in_the_end("sink", name, "remove_stream", put_back, wish={"stream": stream, "destroy": True})

    def put_back(self, name: str, stream: str) -> None:
        self.off.discard((name, stream))
        self.busy.add(name)
        self._in_the_end("sink", name, "add_stream", lambda: self.busy.discard(name), streams=[stream], create=True)

    def destroy_sink(self, name: str) -> None:
        """And makes it anew."""
        done = self._moving(name)
        over, settings = self._world.sinks[name]
        self._checker.counts["sinks destroyed"] += 1
        self.paused.discard(name)
        self._checker.sinks[name].paused = False
        self.off = {(sink, stream) for sink, stream in self.off if sink != name}

        def make(_: Event | None) -> None:
            self._in_the_end("sink", name, "open", done, streams=over, wish=settings, create=True)

        self._ask("sink", name, "destroy", make)

    # --- streams -----------------------------------------------------------------------------------------------------

    def _changing(self, stream: str) -> Callable[[], None]:
        self._checker.given_up.changing[stream] += 1
        self.busy.add(stream)

        def done() -> None:
            self._checker.given_up.changing[stream] -= 1
            self.busy.discard(stream)

        return done

    def trim(self, stream: str) -> None:
        most, done = self._world.chance.choice((0, 3, 10)), self._changing(stream)

        def answered(event: Event | None) -> None:
            self._trimmed(stream, most if event is not None else 0)  # not answered: records may have come before it was done
            done()

        self._ask("stream", stream, "trim", answered, wish={"max_records": most})

    def _trimmed(self, stream: str, most: int) -> None:
        """All that may be gone by it; not more than there is."""
        below, buckets = self._checker.given_up.below, self._world.streams[stream]["buckets"]
        for bucket in range(buckets):
            end = max((place.offset + 1 for place in self._checker.places_of(stream) if place.bucket == bucket), default=0)
            end = max(end, self._end(stream, bucket))
            below[stream, bucket] = max(below.get((stream, bucket), 0), end - share_of(most, buckets))

    def _end(self, stream: str, bucket: int) -> int:
        service = self._manager.publisher_broker.service
        opened = service._catalog.streams.get(stream) if service is not None else None
        if opened is not None:
            return opened.writers[bucket].end.offset
        with contextlib.suppress(DqError, OSError):  # nobody is there: what the log has
            return end_of(self._world.disk(), LAYOUT.bucket(stream, bucket), SMALL).offset
        return 0

    def remove(self, stream: str) -> None:
        """Single records, and some that are not there."""
        places = self._checker.places_of(stream)
        if self._checker.durabilities[stream] != "sync" or not places:
            return  # a place of it may come to be another's
        chosen = self._world.chance.sample(places, min(len(places), self._world.chance.randint(1, 6)))
        self._checker.given_up.places.update(chosen)
        ids = [f"{place.stream}/{place.bucket}/{place.offset}" for place in chosen]
        self._ask("stream", stream, "remove", lambda _: self._removed(chosen), ids=[*ids, f"{stream}/0/999999"])

    def give_up_delayed(self, stream: str) -> None:
        """Some of what waits for a stream, or most of it, is never to come."""
        chance, later, delays = self._world.chance, later_stream(stream), self._checker.delays
        waiting = delays.waiting_in(later)
        if not waiting:
            return
        self._checker.counts["delayed records given up"] += 1
        if chance.random() < 0.5:
            delays.trimmed(later)
            self._ask("stream", later, "trim", lambda _: None, wish={"max_records": 2})
            return
        chosen = chance.sample(waiting, min(len(waiting), 3))
        delays.given_up([number for _, number in chosen])
        self._ask("stream", later, "remove", lambda _: None, ids=[f"{later}/0/{offset}" for offset, _ in chosen])

    def _removed(self, places: list[Place]) -> None:
        self._checker.counts["records removed"] += len(places)

    def destroy_stream(self, stream: str) -> None:
        """And makes it anew."""
        done, before = self._changing(stream), self._uuid(stream)
        for client in [client for client in self._world.publishers if stream in (client.stream, client.base)]:
            client.die()
        self._checker.counts["streams destroyed"] += 1

        def make(_: Event | None) -> None:
            self._open_stream(stream, opened)

        def opened() -> None:
            if self._uuid(stream) != before:
                self._checker.destroyed(stream)
                done()
                return
            done()
            self._checker.delays.maybe_destroyed(stream)
            self._checker.unchanged(
                stream, [self._end(stream, bucket) for bucket in range(self._world.streams[stream]["buckets"])]
            )

        self._ask("stream", stream, "destroy", make)

    def _open_stream(self, stream: str, then: Callable[[], None]) -> None:
        def answered(event: Event | None) -> None:
            if answered in self._open:
                self._open.remove(answered)
                if event is not None and event.type is EventType.ACK:
                    then()
                else:
                    self._later.append(lambda: self._open_stream(stream, then))

        self._open.append(answered)
        fields = {"stream": stream, "create": True, "settings": self._world.streams[stream]}
        self._manager.ask(self._manager.publisher_broker, EventType.OPEN, fields, answered)

    def _uuid(self, stream: str) -> str | None:
        try:
            return read_stream(self._world.disk(), ROOT, stream).uuid
        except (FileNotFoundError, DqError):
            return None


def _instant(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).isoformat()

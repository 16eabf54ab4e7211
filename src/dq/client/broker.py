"""`Broker`: a handle on the broker of a data directory."""

from __future__ import annotations

import os
import re
import threading
import weakref
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dq.client.dead_letters import DeadLetters
from dq.client.holdings import Holdings, holdings_wish
from dq.client.lifetime import Mortal, watch
from dq.client.link import error_of
from dq.client.listener import Listener
from dq.client.metrics import Snapshot
from dq.client.oldest import Oldest
from dq.client.publisher import Publisher
from dq.client.reader import Reader
from dq.client.sink import Sink, Start
from dq.client.stream import Stream
from dq.client.teller import Teller
from dq.client.wishes import sink_wish, with_seconds
from dq.config import LIMITS
from dq.errors import BrokerLost, Closed, Forked, UnknownStream
from dq.log.backend import wish_of
from dq.model.event import Event, EventOwner, EventType, decode
from dq.model.names import base_stream, check_name, check_new_stream
from dq.model.receipt import Receipt
from dq.model.settings import StreamSettings
from dq.model.signal import BroadcastResult, Signal
from dq.transport.peer import Peer

if TYPE_CHECKING:
    from dq.history import History, StreamThen


class Broker:
    """A handle on a running broker; what `dq.connect` returns. Safe to share between threads; a context manager.

    Attributes:
        root: the data directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._asking = threading.Lock()
        self._requests = 0
        self._publishers: dict[tuple[str, bool], Publisher] = {}
        self._adopted: weakref.WeakSet[Mortal] = weakref.WeakSet()
        self._teller: Teller | None = None
        self._oldest = Oldest(root)
        self._refusal: Forked | None = None
        self._peer: Peer | None = self._attach()
        watch(self, last=True)

    def _attach(self) -> Peer:
        peer = Peer(self.root)
        fields = {"id": f"h-{os.urandom(6).hex()}", "pid": os.getpid()}
        try:
            answer = peer.ask(Event(EventType.REGISTER, EventOwner.CLIENT, fields), LIMITS.start_seconds)
            if answer.type is EventType.NACK:
                raise error_of(answer)
        except BaseException:
            peer.close()
            raise
        self.manager_pid: int = answer["status"]["pid"]
        return peer

    def ask(self, kind: EventType, fields: dict[str, Any], timeout: float = LIMITS.publish_timeout_seconds) -> Event:
        """Asks the manager; for dq's own use.

        Raises:
            BrokerLost, BrokerNotRunning: it is gone.
            DqError: what it answered.
        """
        with self._asking:
            if self._peer is None:
                raise self._refusal or Closed("this handle on the broker was closed: connect again")
            self._requests += 1
            event = Event(kind, EventOwner.CLIENT, {"request": self._requests, **fields})
            try:
                answer = self._exchange(self._peer, event, timeout)
            except BrokerLost:
                self._peer.close()
                self._peer = self._attach()  # a new manager, or BrokerNotRunning
                answer = self._exchange(self._peer, event, timeout)
        if answer.type is EventType.NACK:
            raise error_of(answer)
        return answer

    def change(self, kind: Literal["stream", "sink"], name: str, what: str, **fields: Any) -> dict[str, Any]:
        """Has something done with a stream or a sink; for dq's own use. Returns what the broker that did it tells of it.

        Raises:
            As `ask`.
        """
        answer = self.ask(EventType.CHANGE, {"kind": kind, "name": name, "what": what, **fields})
        result: dict[str, Any] = answer.get("result", {})
        return result

    @staticmethod
    def _exchange(peer: Peer, event: Event, timeout: float) -> Event:
        peer.send(event)
        while True:
            frame = peer.receive(timeout)
            if frame is None:
                raise BrokerLost(f"the broker did not answer {event.type} within {timeout:g} s")
            answer = decode(frame)
            if answer.get("request") == event["request"]:
                return answer

    # --- what users call ---------------------------------------------------------------------------------------------

    def adopt(self, client: Mortal) -> None:
        """Has a client closed along with this handle; for dq's own use."""
        self._adopted.add(client)

    def publish(
        self,
        stream: str,
        payload: Any,
        *,
        key: str | None = None,
        topic: str | None = None,
        name: str = "",
        headers: Mapping[str, str] | None = None,
        delay: float | timedelta | datetime | None = None,
        once: str | None = None,
        priority: int = 0,
        expires: float | timedelta | datetime | None = None,
        timeout: float | None = None,
        create: bool = True,
    ) -> Receipt:
        """Publishes one record to a stream and returns once it is committed. See `Publisher.publish`.

        Args:
            create: False raises UnknownStream where there is no such stream, and makes none.
        """
        options: dict[str, Any] = {
            "key": key, "topic": topic, "name": name, "headers": headers, "delay": delay, "once": once, "priority": priority,
            "expires": expires, "timeout": timeout,
        }  # fmt: skip
        publisher = self._publisher(stream, create=create)
        try:
            return publisher.publish(payload, **options)
        except (UnknownStream, Closed):  # it was destroyed, and maybe made anew with other buckets: nothing was stored
            with self._asking:
                if self._publishers.get((stream, create)) is publisher:
                    del self._publishers[stream, create]
            publisher.close()
        publisher = self._publisher(stream, create=create)
        return publisher.publish(payload, **options)

    def _publisher(self, stream: str, *, create: bool) -> Publisher:
        """The one that is kept for a stream."""
        with self._asking:
            if self._peer is None:
                raise self._refusal or Closed("this handle on the broker was closed: connect again")
            publisher = self._publishers.get((stream, create))
            if publisher is None:
                publisher = self._publishers[stream, create] = Publisher(self.root, stream, create=create)
        return publisher

    def stream(self, name: str, **settings: Any) -> Stream:
        """Makes a stream, or finds it.

        Args:
            name: of the stream.
            settings: those of `StreamSettings`, as buckets=4; what is left out is as the stream has it, or the default.
                Seconds may be a timedelta.

        Raises:
            SettingsMismatch: it exists with other settings; the message shows both.
            InvalidName, InvalidSetting.
        """
        if base_stream(name) is None:
            check_new_stream(name)
        wish = wish_of(with_seconds(settings, "max_age", "ttl", "keep_seconds", "sync_seconds"))
        answer = self.ask(EventType.OPEN, {"stream": name, "create": True, "settings": wish})
        return Stream(self, name, StreamSettings.from_dict(answer["opened"]["settings"]))

    def streams(self) -> list[str]:
        """The names of all streams, sorted; also of those that are closed because of damage."""
        names: list[str] = self.change("stream", "", "list")["streams"]
        return names

    def broadcast(
        self,
        channel: str,
        payload: Any,
        *,
        mode: Literal["forget", "all", "any", "best"] = "all",
        topic: str | None = None,
        timeout: float | timedelta = LIMITS.broadcast_timeout_seconds,
    ) -> BroadcastResult:
        """Tells something to whoever listens to a channel now. Nothing is stored: who is not there never hears of it.

        Args:
            channel: its name; nobody need make it.
            payload: as of `publish`.
            mode: "forget" returns once it was passed on; "all" (default) when every listener has taken it; "any" when the
                first one has; "best" as "all", but failures are only counted.
            topic: an optional label, by which listeners choose.
            timeout: seconds to wait for the listeners; default 5.

        Returns how many were told, and what came of it.

        Raises:
            BroadcastFailed: with "all", a listener failed or did not answer in time; with "any", none took it. Its `.result`
                counts them.
            InvalidPayload, InvalidName, InvalidSetting, RecordTooLarge: nobody was told.
            BrokerLost: the broker went away meanwhile: who was told is not known. It is not told again.
        """
        with self._asking:
            if self._refusal is not None or self._peer is None:
                raise self._refusal or Closed("this handle on the broker was closed: connect again")
            if self._teller is None:
                self._teller = Teller(self.root)
            teller = self._teller
        return teller.broadcast(channel, payload, mode=mode, topic=topic, timeout=timeout)

    def listen(
        self,
        *channels: str | Callable[[Signal], object],
        topic: str | None = None,
        pattern: str | re.Pattern[str] | None = None,
    ) -> Listener:
        """Listens to channels: `for signal in broker.listen("news")`, or `broker.listen("news", function)`.

        Args:
            channels: their names; a function as the last one is called for each signal, in a thread, until `close()`.
            topic, pattern: as of `Listener`.

        Raises:
            InvalidName, InvalidSetting.
        """
        function = channels[-1] if channels and callable(channels[-1]) else None
        names = channels if function is None else channels[:-1]
        listener = Listener(self, *names, topic=topic, pattern=pattern)  # type: ignore[arg-type]
        return listener if function is None or isinstance(function, str) else listener.call(function)

    def reader(self, *streams: str, **wishes: Any) -> Reader:
        """A `Reader` of these streams; the wishes are its own."""
        return Reader(self.root, *streams, **wishes)

    def sink(
        self,
        name: str,
        *streams: str,
        start: Start | None = None,
        ack_grace: float | timedelta | None = None,
        max_attempts: int | None = None,
        ordered: bool | None = None,
        no_ack: bool | None = None,
        topic: str | None = None,
        pattern: str | re.Pattern[str] | None = None,
        create: bool = True,
    ) -> Sink:
        """Makes a sink over streams, or finds it, and puts it over those of the streams that it is not over yet.

        Args:
            name: of the sink.
            streams: those it is to be over; a missing one is made with its defaults. None: as the sink has them.
            start: where it begins if it is new: see `Sink.seek`; default "oldest".
            ack_grace, max_attempts, ordered, no_ack, topic, pattern: see `SinkSettings`; what is left out is as the sink has
                it, or the default.
            create: False refuses to make a missing sink or stream.

        Raises:
            UnknownSink: there is none, and none is to be made: `create` is False, or it would be over nothing.
            SettingsMismatch: it exists with other settings; the message shows both.
            UnknownStream, InvalidName, InvalidSetting.
        """
        wish = sink_wish(
            start=start,
            ack_grace=ack_grace,
            max_attempts=max_attempts,
            ordered=ordered,
            no_ack=no_ack,
            topic=topic,
            pattern=pattern,
        )
        sink = Sink(self, name)
        over = [check_name("stream", stream) for stream in streams]
        self.change("sink", name, "open", wish=wish, streams=over, create=create and bool(over))
        return sink

    def dlq(self, stream: str) -> DeadLetters:
        """The dead letters of a stream: to be looked at, replayed or discarded. Raises InvalidName."""
        return DeadLetters(self, stream)

    def explain(self, record: str, *, sink: str | None = None) -> History:
        """The biography of a record, from the logs, as far as they are kept. See `dq.history.explain`."""
        from dq.history import explain

        return explain(self.root, record, sink=sink)

    def at(self, stream: str, when: datetime | timedelta | int | str, *, sink: str | None = None) -> StreamThen:
        """What a stream and its sinks looked like at a moment, from the logs. See `dq.history.state_at`."""
        from dq.history import state_at

        return state_at(self.root, stream, when, sink=sink)

    def sinks(self) -> list[str]:
        """The names of all sinks, sorted."""
        names: list[str] = self.change("sink", "", "list")["sinks"]
        return names

    def who(self, sink: str = "", **wish: Any) -> Holdings:
        """Who holds what: every lease in a consumer's hand, or those of one sink; see `Sink.leases`.

        Raises:
            UnknownSink, InvalidName, InvalidSetting.
        """
        return Holdings.of(self.change("sink", sink, "who", wish=holdings_wish(**wish)))

    def stats(self) -> dict[str, Any]:
        """Figures of the manager, both brokers, all streams and sinks, as one dict."""
        status: dict[str, Any] = self.ask(EventType.STATUS, {})["status"]
        return status

    def metrics(self) -> Snapshot:
        """Every counter and latency, as they are now, as one frozen value."""
        status = self.stats()
        return Snapshot.of(status, self._oldest.look(status))

    def close(self) -> None:
        """Closes this handle and the publishers that `publish` made; the broker goes on. Safe twice."""
        if self._teller is not None:
            self._teller.close()
        self._close_clients()
        self._oldest.close()
        with self._asking:
            if self._peer is not None:
                self._peer.close()
                self._peer = None

    def _close_clients(self, timeout: float | None = None) -> None:
        for client in [*self._publishers.values(), *self._adopted]:
            if isinstance(client, Publisher):
                client.close(timeout)
            else:
                client.close()
        self._publishers.clear()

    def after_fork(self, refusal: Forked) -> None:
        """In a forked child: this object is the parent's."""
        self._refusal, self._publishers, self._teller = refusal, {}, None
        if self._peer is not None:
            self._peer.close_copy()
            self._peer = None

    def __enter__(self) -> Broker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.root}>"

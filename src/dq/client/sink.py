"""`Sink`: a handle on a durable, shared cursor: what it has done, and where it is to go on."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from dq.client.consumer import Consumer
from dq.client.holdings import Holdings
from dq.client.stats import SinkStats
from dq.errors import InvalidSetting
from dq.model.names import check_name
from dq.model.settings import SinkSettings
from dq.model.shown import shown
from dq.model.start import start_of

if TYPE_CHECKING:
    from dq.client.broker import Broker

Start = str | datetime | timedelta
_IDS_AT_ONCE = 10_000


class Sink:
    """One sink; what `broker.sink(...)` returns. It lives in the broker: this handle holds nothing, and needs no closing.

    Attributes:
        name: of the sink.
    """

    def __init__(self, broker: Broker, name: str) -> None:
        self._broker, self.name = broker, check_name("sink", name)

    def _change(self, what: str, **fields: Any) -> dict[str, Any]:
        return self._broker.change("sink", self.name, what, **fields)

    @property
    def settings(self) -> SinkSettings:
        """What it was made with.

        Raises:
            UnknownSink: it was destroyed.
        """
        return self.stats().settings

    def stats(self) -> SinkStats:
        """Its figures, as they are now.

        Raises:
            UnknownSink: it was destroyed.
        """
        return SinkStats.of(self._change("stats"))

    def leases(self, *, stream: str | None = None, consumer: str | None = None, limit: int | None = None) -> Holdings:
        """Who holds what of it: every lease in a consumer's hand.

        Args:
            stream, consumer: only those of this one.
            limit: so many at most; default and most: 1,000. The rest is counted in `.more`.

        Raises:
            UnknownSink: it was destroyed. InvalidSetting.
        """
        return self._broker.who(self.name, stream=stream, consumer=consumer, limit=limit)

    def release(self, *ids: str, consumer: str | None = None) -> int:
        """Takes records back from who has them in hand, as from a consumer that hangs: they are handed out again, at the same
        attempt. Returns how many came back; what nobody has in hand is passed over.

        Their holder is not told. It goes on with them, and what it says of them is late, as after an expired lease: an ack
        counts if nobody settled the record before, and changes nothing else (in an ordered sink, never). It gets nothing more
        until it settles something, gives something back or asks for more.

        Args:
            ids: of the records. In an ordered sink all behind them in a hand comes back as well.
            consumer: instead of ids, the id of a consumer: all that it has comes back.

        Raises:
            InUse: the sink is ordered, and a record before these, in the same hand, is to stay there: nothing came back.
            UnknownSink: it was destroyed. InvalidSetting: one is no id; or both or neither were named.
        """
        if (consumer is not None) == bool(ids):
            raise InvalidSetting("records are taken back by their ids, or all that one consumer has: name one of both")
        for each in ids:
            if not isinstance(each, str):
                raise InvalidSetting(f"a record is taken back by its id, a text, not by {shown(each)}")
        if consumer is not None:
            return int(self._change("release", wish={"consumer": consumer})["released"])
        some = [list(ids[begin : begin + _IDS_AT_ONCE]) for begin in range(0, len(ids), _IDS_AT_ONCE)]
        return sum(int(self._change("release", ids=each)["released"]) for each in some)

    def consumer(self, **options: Any) -> Consumer:
        """A consumer of it, over the streams that it has.

        Args:
            options: those of `Consumer`, as prefetch=10.
        """
        return Consumer(self._broker, sink=self.name, **options)

    def seek(self, start: Start) -> None:
        """Moves it: it goes on from there, also with records that it had settled. What its consumers have in hand is theirs no
        more, and what they still say of it changes nothing.

        Args:
            start: "oldest", "newest", the id of a record to go on after (of a sink over one bucket), a position, an aware
                datetime, or a timedelta ago.

        Raises:
            InvalidSetting: `start` says nothing of the streams it is over.
            InUse: a dead letter of it is on its way; try again.
        """
        wish = {"start": start_of(start, time.time()).text}
        self._change("seek", wish=wish, streams=list(self.stats().streams), create=False)

    def pause(self) -> None:
        """Hands out nothing more until `resume()`, also after restarts; what is in hand can be settled. Safe twice."""
        self._change("pause")

    def resume(self) -> None:
        """Hands out again. Safe twice."""
        self._change("resume")

    def add_stream(self, name: str, *, start: Start | None = None, create: bool = True) -> None:
        """Puts it over one more stream, also while its consumers work. One that it has already is none the worse for it; one
        that it was taken off goes on where it was.

        Args:
            name: of the stream; a missing one is made with its defaults.
            start: where to begin in it, as for `seek`; default: as the sink began.
            create: False refuses to make a missing stream.

        Raises:
            UnknownStream, InvalidSetting, InvalidName.
        """
        wish = {} if start is None else {"start": start_of(start, time.time()).text}
        self._change("add_stream", streams=[check_name("stream", name)], wish=wish, create=create)

    def remove_stream(self, name: str, *, destroy: bool = False) -> None:
        """Takes it off a stream: nothing more of it is handed out; what is in hand can be settled. Once more changes nothing.

        Args:
            name: of the stream.
            destroy: also forget how far it was. By default that is kept, and keeps what is not settled on disk.
        """
        self._change("remove_stream", wish={"stream": check_name("stream", name), "destroy": destroy})

    def destroy(self) -> None:
        """Deletes it, with all it knows; its consumers end with `UnknownSink`. The streams stay. Safe twice."""
        self._change("destroy")

    def __repr__(self) -> str:
        return f"<Sink {self.name!r} of {self._broker.root}>"

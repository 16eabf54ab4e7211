"""What users have done with a stream as a whole: the CHANGE events of kind "stream", each of which may come twice."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from dq.broker.desk import Desk, Served
from dq.broker.interval_sync import IntervalSync
from dq.broker.notices import Notices
from dq.broker.opened import figures
from dq.broker.trimming import Trimming, share_of
from dq.errors import InvalidSetting, StreamReadOnly
from dq.log.catalog import Catalog, OpenStream
from dq.model.event import Event, EventOwner
from dq.model.names import later_stream
from dq.model.shown import shown
from dq.model.start import parse_start
from dq.model.told import about
from dq.transport.pipe import Pipe

log = logging.getLogger("dq")
_ID = re.compile(r"([^/]+)/(0|[1-9][0-9]{0,8})/(0|[1-9][0-9]{0,18})")


class Holder(Served):
    """A client that holds a stream open."""

    __slots__ = ("stream",)

    def __init__(self, pipe: Pipe, client: str, pid: int, stream: OpenStream) -> None:
        super().__init__(pipe, client, pid)
        self.stream = stream

    def labels(self) -> dict[str, str]:
        return {"peer": EventOwner.PUBLISHER, "client": self.id, "stream": self.stream.name}


class StreamChanges:
    """Does them.

    Args:
        catalog, trimming, notices, interval: of the streams.
        desk: has the clients that hold a stream open.
        find: opens a stream by its name, or raises UnknownStream, or why it is closed.
        commit: commits what is staged.
    """

    def __init__(
        self,
        catalog: Catalog,
        trimming: Trimming,
        notices: Notices,
        interval: IntervalSync,
        desk: Desk[Holder],
        find: Callable[[str], OpenStream],
        commit: Callable[[], None],
    ) -> None:
        self._catalog, self._trimming, self._notices = catalog, trimming, notices
        self._interval, self._desk, self._find, self._commit = interval, desk, find, commit

    def do(self, event: Event) -> dict[str, Any]:
        """Does what a CHANGE asks for; returns what is to be told of it.

        Raises:
            UnknownStream, InvalidSetting, DiskFull, LogError: nothing was changed.
        """
        act = _ACTS.get(event["what"])
        if act is None:
            raise InvalidSetting(f"a stream can be asked for {', '.join(_ACTS)}, not for {shown(event['what'])}")
        return act(self, event)

    def _list(self, _: Event) -> dict[str, Any]:
        return {"streams": sorted([*self._catalog.streams, *self._catalog.errors])}

    def _stats(self, event: Event) -> dict[str, Any]:
        stream = self._find(event["name"])
        return {**figures(stream), "publishers": len(self._holders(stream))}

    def _holders(self, stream: OpenStream) -> list[Holder]:
        return [client for client in self._desk.clients.values() if client.stream is stream]

    def _sync(self, event: Event) -> dict[str, Any]:
        """Flushes what is stored and not on disk yet."""
        stream = self._find(event["name"])
        self._commit()
        for writer in stream.writers:
            if writer.unsynced:
                writer.sync()
        return {}

    # --- trim and remove -------------------------------------------------------------------------------------------

    def _trim(self, event: Event) -> dict[str, Any]:
        stream, wish = self._find(event["name"]), event.get("wish", {})
        before, most = wish.get("before"), wish.get("max_records")
        if (before is None) == (most is None) or set(wish) - {"before", "max_records"}:
            raise InvalidSetting("a trim is before something, or to max_records: give one of them")
        marks = self._marks_before(stream, before) if before is not None else _marks_of_newest(stream, most)
        return {"trimmed": self._trimming.trim(stream, marks)}

    def _marks_before(self, stream: OpenStream, before: Any) -> list[int]:
        """By bucket, the offset that is meant; that of an id is the record's own, which stays."""
        if not isinstance(before, str):
            raise InvalidSetting(f"before is kept as a text, not as {shown(before)}")
        start, buckets = parse_start(before), range(len(stream.writers))
        if start.after is not None:
            name, bucket, offset = start.after
            if name != stream.name or bucket not in buckets:
                raise InvalidSetting(f"before={before!r} is no place in stream {stream.name!r} of {len(buckets)} bucket(s)")
            return [offset if each == bucket else 0 for each in buckets]
        start.check_over({stream.name: buckets})
        firsts, ends = stream.firsts(), [writer.end.offset for writer in stream.writers]
        return [
            start.offset(stream.name, bucket, firsts[bucket], ends[bucket], partial(self._since, stream, bucket))
            for bucket in buckets
        ]

    def _since(self, stream: OpenStream, bucket: int, at: float) -> int:
        """The first offset of a bucket that was published at or after an instant."""
        reader = self._catalog.reader(stream, bucket)
        try:
            return reader.find(at)
        finally:
            reader.close()

    def _remove(self, event: Event) -> dict[str, Any]:
        stream = self._find(event["name"])
        offsets: list[set[int]] = [set() for _ in stream.writers]
        for each in event.get("ids", []):
            bucket, offset = _place_in(stream, each)
            offsets[bucket].add(offset)
        return {"removed": self._trimming.remove(stream, offsets)}

    # --- the end of a stream ---------------------------------------------------------------------------------------

    def _destroy(self, event: Event) -> dict[str, Any]:
        self.destroy(event["name"])
        return {}

    def destroy(self, name: str) -> None:
        """Destroys a stream, if there is one, and the delayed records that wait for it. Its publishers are cut off: they come
        again, and make it anew if they may.

        Raises:
            LogError: as `Catalog.destroy`.
        """
        self._commit()
        if later_stream(name) in self._catalog:  # first, and if it is closed too: what waits has nowhere to come to
            self.destroy(later_stream(name))
        stream = self._catalog.streams.get(name)
        if stream is not None:
            self._interval.forget(stream)
            for writer in stream.writers:  # a flush in another thread must not find that its file is gone
                with contextlib.suppress(StreamReadOnly):
                    writer.sync()
        self._catalog.destroy(name)
        self._trimming.forget(name)
        if stream is None:
            return
        log.info("stream %s is destroyed", name, extra=about(stream=name))
        self._notices.destroyed(stream)
        self._desk.flush()  # what was stored is answered first
        for client in self._holders(stream):
            self._desk.leave(client)


def _marks_of_newest(stream: OpenStream, most: Any) -> list[int]:
    if type(most) is not int or most < 0:
        raise InvalidSetting(f"max_records must be a whole number from 0, not {shown(most)}")
    share = share_of(most, len(stream.writers))
    return [max(writer.end.offset - share, 0) for writer in stream.writers]


def _place_in(stream: OpenStream, text: str) -> tuple[int, int]:
    """The bucket and the offset of an id. Raises InvalidSetting where it is no id of this stream."""
    found = _ID.fullmatch(text)
    if found is None or found[1] != stream.name or int(found[2]) >= len(stream.writers):
        raise InvalidSetting(
            f"{shown(text)} is no id of stream {stream.name!r}: they are {stream.name}/<bucket>/<offset>, "
            f"of {len(stream.writers)} bucket(s)"
        )
    return int(found[2]), int(found[3])


_ACTS: dict[str, Callable[[StreamChanges, Event], dict[str, Any]]] = {
    "trim": StreamChanges._trim,
    "remove": StreamChanges._remove,
    "destroy": StreamChanges._destroy,
    "stats": StreamChanges._stats,
    "sync": StreamChanges._sync,
    "list": StreamChanges._list,
}

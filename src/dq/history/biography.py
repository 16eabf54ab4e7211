"""`explain`: the biography of one record, from the logs alone."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from dq.errors import Damaged, InvalidSetting, RecordsTrimmed, UnknownRecord
from dq.history.events import Place, SinkPast, events_of, id_of
from dq.history.lineage import is_by_later, is_by_sink, lineage, parent_of, place_of_id
from dq.history.read_notes import blamed_on, chosen_sinks, notes_of
from dq.history.shelf import TRIES, Found, Shelf, trimmed_meanwhile
from dq.history.values import History, HistoryEvent, Kind, RecordSeen, RecordState
from dq.log.files import Files
from dq.model.names import base_stream, later_stream
from dq.model.record import payload_of
from dq.model.shown import shown

Known = dict[Place, Found | None]


def explain(root: Path | str | os.PathLike[str], record: str, *, sink: str | None = None) -> History:
    """The biography of a record, as far as the logs are kept: published when and by whom, each lease, extension, loss, retry,
    dead letter, replay and settle. It needs no broker, and one that runs is not disturbed.

    Args:
        root: the data directory.
        record: its id, `stream/bucket/offset`; also that of a dead letter, or of a delayed record.
        sink: tell of this sink alone.

    Raises:
        UnknownStream, UnknownSink, UnknownRecord: there is none. InvalidSetting: that is no id.
        Damaged, NewerFormat: a log that was looked into cannot be used; the message names the file and the byte.
        LogError: it cannot be read.
    """
    root, place = Path(root), place_of_id(record)
    if place is None:
        raise InvalidSetting(f"{shown(record)} is no id of a record: they are like orders/0/17 (stream, bucket, offset)")
    files = Files()
    for _ in range(TRIES):
        with Shelf(files, root) as shelf, suppress(RecordsTrimmed):
            _check_there(shelf, place)
            sinks = chosen_sinks(files, root, sink)
            known = lineage(shelf, place)
            watched = [each for each in known if not _is_later(each)]
            pasts = [_past(files, root, name, watched) for name in sinks]
            return _Biography(shelf, place, known, pasts).written()
    raise trimmed_meanwhile(root)


def _check_there(shelf: Shelf, place: Place) -> None:
    look = shelf.stream(place[0])
    if place[1] >= look.buckets:
        raise UnknownRecord(f"there is no record {id_of(place)}: stream {place[0]!r} has buckets 0 to {look.buckets - 1}")
    if look.tells and place[2] >= look.end(place[1]):
        look.check_end(place[1])
        raise UnknownRecord(f"there is no record {id_of(place)}: its bucket ends at offset {look.end(place[1])}")


def _past(files: Files, root: Path, sink: str, places: list[Place]) -> SinkPast:
    notes = notes_of(files, root, sink)
    try:
        return events_of(notes, sink, places, time.time())
    except Damaged as error:
        raise blamed_on(root, sink, error) from error


def _is_later(place: Place) -> bool:
    base = base_stream(place[0])
    return base is not None and place[0] == later_stream(base)


class _Biography:
    def __init__(self, shelf: Shelf, place: Place, known: Known, pasts: Iterable[SinkPast]) -> None:
        self._shelf, self._place, self._known = shelf, place, known
        self._children: dict[Place, Place] = {}
        for each, found in known.items():
            parent = None if found is None else parent_of(found)
            if parent is not None:
                self._children[parent] = each
        self._pasts = [past for past in pasts if past.states or past.events]

    def written(self) -> History:
        events = [event for place in self._known for event in self._events(place)]
        # Batches say when they were committed in whole milliseconds: within one, the order of causes counts.
        events.sort(key=lambda event: (event.at is None, round(event.at or 0.0, 3)))
        found = self._known[self._place]
        return History(
            id=id_of(self._place),
            records=tuple(self._seen(place) for place in self._known),
            events=tuple(events),
            states=tuple(state for place in self._known for state in self._states(place)),
            gaps=tuple(self._gaps()),
            payload=None if found is None or self._removed(self._place) else _payload(found),
        )

    def _seen(self, place: Place) -> RecordSeen:
        found = self._known[place]
        if found is None:
            return RecordSeen(id=id_of(place))
        fields, about = found.fields, found.batch.about or {}
        return RecordSeen(
            id=id_of(place),
            published_at=found.at,
            committed_at=found.batch.at,
            publisher=found.batch.publisher,
            key=_text(fields.get("key")),
            topic=_text(fields.get("topic")),
            name=_text(fields.get("name")) or "",
            only_for=_text(about.get("for")) or "",
            due=found.due,
            expires=_time(fields.get("expires")),
            kept=not self._removed(place),
        )

    # --- events ------------------------------------------------------------------------------------------------------

    def _events(self, place: Place) -> Iterator[HistoryEvent]:
        found = self._known[place]
        if found is not None:
            yield _origin_event(found)
        told = False
        for past in self._concerned(place):
            for event in past.of(place):
                told = told or event.kind is Kind.REMOVED
                yield event if event.kind not in (Kind.GIVEN_UP, Kind.PUT_OFF) else self._with_other(event, place)
        if self._removed(place) and not told and place not in self._children:
            yield HistoryEvent(at=None, kind=Kind.REMOVED, record=id_of(place))

    def _with_other(self, event: HistoryEvent, place: Place) -> HistoryEvent:
        """With the id of the record that it became."""
        other = self._child_of(place, event.sink)
        return event if other is None else replace(event, other=id_of(other))

    def _child_of(self, place: Place, sink: str) -> Place | None:
        """What a record became by the doing of a sink."""
        for each, found in self._known.items():
            if found is not None and parent_of(found) == place and _sink_of(found) == sink:
                return each
        return None

    def _concerned(self, place: Place) -> list[SinkPast]:
        """The sinks that have to do with a record: not those that pass over it, as it is for another one."""
        found = self._known[place]
        only = None if found is None else (found.batch.about or {}).get("for")
        return [past for past in self._pasts if only is None or past.sink == only]

    def _removed(self, place: Place) -> bool:
        look = self._shelf.look(place[0])
        return look is not None and look.is_removed(place)

    # --- states ------------------------------------------------------------------------------------------------------

    def _states(self, place: Place) -> Iterator[RecordState]:
        for past in self._concerned(place):
            state = past.states.get(place)
            if state is not None:
                other = self._child_of(place, past.sink)
                yield state if other is None else replace(state, other=id_of(other))
        found = self._known[place]
        if found is None or base_stream(place[0]) is None:
            return
        child = self._children.get(place)
        later = _is_later(place)
        became = "removed" if self._removed(place) else "delayed" if later else "kept"
        if child is not None:
            became = "came" if later else "replayed"
        yield RecordState(
            sink=_sink_of(found), record=id_of(place), state=became, until=found.due if later else None,
            other="" if child is None else id_of(child),
        )  # fmt: skip

    def _gaps(self) -> Iterator[str]:
        for place, found in self._known.items():
            look = self._shelf.look(place[0])
            if found is not None:
                continue
            if look is None:
                yield f"{id_of(place)}: there is no stream {place[0]!r} any more"
            elif not look.tells:
                yield f"{id_of(place)}: a class of its own keeps that stream; who published it cannot be told"
            else:
                yield f"{id_of(place)}: it is not kept any more; its bucket begins at offset {look.first(place[1])}"
        for past in self._pasts:
            if past.since is not None and any(event.kind is Kind.KEPT for event in past.events):
                yield f"sink {past.sink}: what was before {_moment(past.since)} is not kept"


def _origin_event(found: Found) -> HistoryEvent:
    """How a record came to be."""
    told: dict[str, Any] = {"record": id_of(found.place), "publisher": found.batch.publisher, "committed": found.batch.at}
    parent = parent_of(found)
    told["other"] = "" if parent is None else id_of(parent)
    at, delay = found.at, None if found.due is None else max(found.due - (found.at or found.due), 0.0)
    if base_stream(found.place[0]) is None:
        if is_by_later(found.batch):
            return HistoryEvent(at=found.batch.at or found.due, kind=Kind.CAME, **told)
        if parent is not None:
            return HistoryEvent(at=at, kind=Kind.REPLAYED, sink=_sink_of(found), **told)
        return HistoryEvent(at=at, kind=Kind.PUBLISHED, **told)
    if not _is_later(found.place):
        return HistoryEvent(at=at, kind=Kind.BURIED, sink=_sink_of(found), **told)
    if is_by_sink(found.batch):
        return HistoryEvent(at=found.batch.at, kind=Kind.WAITS, sink=_sink_of(found), seconds=delay, **told)
    return HistoryEvent(at=at, kind=Kind.DELAYED, seconds=delay, **told)


def _sink_of(found: Found) -> str:
    """The sink by whose doing a record was made."""
    if is_by_sink(found.batch):
        return found.batch.publisher.split(":")[1]
    return _text((found.batch.about or {}).get("for")) or ""


def _payload(found: Found) -> Any:
    try:
        return payload_of(found.fields)
    except (KeyError, TypeError, ValueError):
        return None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _time(value: object) -> float | None:
    return float(value) if type(value) in (int, float) else None  # type: ignore[arg-type]


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at).astimezone().isoformat(sep=" ", timespec="milliseconds")

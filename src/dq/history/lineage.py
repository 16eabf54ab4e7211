"""All that a record has been: as it came after a delay, as a retry that waited long, as a dead letter, as its replay.

Each of these is a record of its own, and names the one before: a dead letter by its header `dq-id`, one that waits for a late
retry by `of`, one that has come by `from`, a replay by the key under which it was published. Only what dq itself has written is
believed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dq.errors import InvalidSetting
from dq.history.events import Place
from dq.history.shelf import Batch, Found, Shelf, StreamLook
from dq.model.names import base_stream, dead_letter_stream, later_stream
from dq.model.start import parse_start

_REPLAY = "replay:"
_RECORDS_MAX = 1_000
"""A record that has been more than this many is told of no further."""


def place_of_id(text: object) -> Place | None:
    """The place that an id names; None where it is none."""
    try:
        return parse_start(text).after if isinstance(text, str) else None
    except InvalidSetting:
        return None


def is_by_sink(batch: Batch) -> bool:
    """Whether a sink published it: a dead letter, or a retry that waits."""
    return batch.publisher.startswith("sink:")


def is_by_later(batch: Batch) -> bool:
    """Whether it is one of the delayed records that have come."""
    return batch.publisher.startswith("later:")


def replayed_letter(batch: Batch) -> Place | None:
    """The dead letter that a batch is the replay of."""
    once = (batch.about or {}).get("once")
    if not isinstance(once, str) or not once.startswith(_REPLAY) or "for" not in (batch.about or {}):
        return None
    return place_of_id(once.removeprefix(_REPLAY).rpartition("@")[0])


def parent_of(found: Found) -> Place | None:
    """The record that it was before; None for one that a user published."""
    stream, fields = found.place[0], found.fields
    base = base_stream(stream)
    if base is None:
        if is_by_later(found.batch):
            return place_of_id(fields.get("from"))
        return replayed_letter(found.batch)
    if not is_by_sink(found.batch):
        return None
    if stream == later_stream(base):
        return place_of_id(fields.get("of"))
    headers = fields.get("headers")
    return place_of_id(headers.get("dq-id")) if isinstance(headers, dict) else None


def lineage(shelf: Shelf, place: Place) -> dict[Place, Found | None]:
    """All that the record at a place has been and became, the first one first; None for one that is not kept any more."""
    known: dict[Place, Found | None] = {}
    waiting = [_origin(shelf, place)]
    while waiting and len(known) < _RECORDS_MAX:
        each = waiting.pop(0)
        if each in known:
            continue
        known[each] = found = _record(shelf, each)
        waiting += [child.place for child in _children(shelf, each, found)]
    if place not in known:  # what stands between is not kept any more
        known |= {place: _record(shelf, place)} | {
            child.place: child for child in _children(shelf, place, _record(shelf, place)) if child.place not in known
        }
    return known


def _record(shelf: Shelf, place: Place) -> Found | None:
    look = shelf.look(place[0])
    return None if look is None else look.record(place[1], place[2])


def _origin(shelf: Shelf, place: Place) -> Place:
    seen = {place}
    while (found := _record(shelf, place)) is not None:
        parent = parent_of(found)
        if parent is None or parent in seen:
            break
        seen.add(parent)
        place = parent
    return place


def _children(shelf: Shelf, place: Place, found: Found | None) -> Iterator[Found]:
    """What it became."""
    since = None if found is None else found.batch.at or found.at
    base = base_stream(place[0])
    if base is None:
        for name in (dead_letter_stream(place[0]), later_stream(place[0])):
            yield from _search(shelf.look(name), since, is_by_sink, place)
    elif place[0] == later_stream(base):
        yield from _search(shelf.look(base), since, is_by_later, place)
    else:
        yield from _search(shelf.look(base), since, lambda batch: replayed_letter(batch) == place, place)


def _search(look: StreamLook | None, since: float | None, wanted: Callable[[Batch], bool], parent: Place) -> Iterator[Found]:
    """The records of a stream that were `parent` before, in the batches that are wanted."""
    if look is None:
        return
    for bucket in range(look.buckets):
        for batch in look.batches(bucket, since):
            if wanted(batch):
                for found in look.records(bucket, batch):
                    if parent_of(found) == parent:
                        yield found

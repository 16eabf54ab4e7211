"""From a sink's log to its state and back: `replay` does what a note says, `snapshot` says all that is to be known.

The forms are drawn in `notes.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields
from math import inf
from typing import Any

from dq.core.book import Book, Counters, lease_note, letter_note
from dq.core.leases import Lease, Own, Shard
from dq.core.ledger import Burned, Ledger
from dq.core.ranges import Range, RangeSet
from dq.core.states import IllegalStep, State
from dq.errors import Damaged
from dq.model.dead_letter import DeadLetter
from dq.model.names import check_name
from dq.model.shown import shown

Note = dict[str, Any]
_COUNT_MAX = 1 << 62  # of an offset or a number: with it sums still fit into the 64 bits of a snapshot


def replay(book: Book, note: Note) -> bool:
    """Does again what a note says. Returns False for a kind of note that this version does not know.

    Raises:
        Damaged: the note cannot follow those before it, lacks a key, or has something else there than `notes.py` draws.
    """
    if type(note) is not dict:
        raise Damaged(f"the sink's log has {shown(note)} where a note is expected")
    act = _KINDS.get(next(iter(note), ""))
    if act is None:
        return False
    book.notes.muted = True
    try:
        act(book, note)
    except (KeyError, TypeError, ValueError, IllegalStep) as error:
        raise Damaged(f"the note {shown(note)} does not fit the sink's log before it: {error!r:.500}") from error
    finally:
        book.notes.muted = False
    return True


def snapshot(book: Book) -> list[bytes]:
    """Notes that rebuild the whole state, the first of which makes all earlier ones void."""
    head: Note = {"snapshot": 1, "next_lease": book.next_lease, "next_group": book.next_group}
    notes = [head | {"next_intents": book.next_intents, "counters": asdict(book.counters)}]
    notes += [_cursor_note(ledger) for _, ledger in sorted(book.ledgers.items())]
    for _, lease in sorted(book.leases.items()):
        left = sorted(offset for offset, own in (lease.own or {}).items() if own.left)
        alone = lease.state is State.ISOLATED
        notes.append(lease_note("held", lease) | {"open": list(lease.open), "left": left, "alone": alone})
    notes += [lease_note("ended", lease) for lease in book.ended.values()]
    for number, group in sorted(book.groups.items()):
        members = [[*shard, list(ranges)] for shard, ranges in sorted(group.items(), key=lambda member: member[0])]
        notes.append({"group": number, "members": members})
    for _, letter in sorted(book.intents.items()):
        notes.append(letter_note("dying", letter) | ({"stray": True} if book.is_stray(letter) else {}))
    return [book.notes.line(note) for note in notes]


def _cursor_note(ledger: Ledger) -> Note:
    return {
        "cursor": ledger.floor,
        "stream": ledger.shard[0],
        "bucket": ledger.shard[1],
        "uuid": ledger.uuid,
        "epoch": ledger.epoch,
        "next": ledger.next,
        "settled": list(ledger.settled),
        "returned": list(ledger.returned),
        "suspects": list(ledger.suspects),
        "delayed": sorted(ledger.delayed.items()),
        "burned": [[offset, *burned] for offset, burned in sorted(ledger.burned.items())],
    }


# --- what notes have in common ---------------------------------------------------------------------------------------


def _shard(note: Note) -> Shard:
    return _text(note, "stream"), _count(note, "bucket")


def _ledger(book: Book, note: Note) -> Ledger:
    return book.ledgers[_shard(note)]


def _lease(book: Book, note: Note, kind: str) -> Lease:
    """The lease that the note is about, of the shard that it names."""
    lease = book.leases[_count(note, kind)]
    _demand(lease.shard == _shard(note), "its lease is of another shard")
    return lease


def _span(note: Note) -> Range:
    first, count = _count(note, "first"), _count(note, "count")
    _demand(count > 0 and first + count <= _COUNT_MAX, "its range is none")
    return first, first + count


def _ranges(note: Note, key: str = "ranges") -> list[Range]:
    return _as_ranges(note[key])


# --- values, read with suspicion: a checksum can be right over nonsense ----------------------------------------------


def _demand(met: bool, otherwise: str) -> None:
    if not met:
        raise ValueError(otherwise)


def _as_count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _COUNT_MAX:
        raise ValueError(f"{shown(value)} is no offset and no number")
    return value


def _as_text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"{shown(value)} is no text")
    return value


def _as_seconds(value: Any) -> float:
    if type(value) not in (int, float) or not value >= 0:
        raise ValueError(f"{shown(value)} is no time")
    return value  # type: ignore[no-any-return]


def _as_flag(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError(f"{shown(value)} is neither true nor false")
    return value


def _as_ranges(values: Any) -> list[Range]:
    """Two counts each, the first not above the second."""
    ranges = [(_as_count(first), _as_count(stop)) for first, stop in values]
    if any(first > stop for first, stop in ranges):
        raise ValueError(f"{shown(values)} are no ranges")
    return ranges


def _count(note: Note, key: str) -> int:
    return _as_count(note[key])


def _text(note: Note, key: str) -> str:
    return _as_text(note[key])


def _flag(note: Note, key: str) -> bool:
    return _as_flag(note.get(key, False))


def _within(ranges: list[Range], first: int, stop: int) -> RangeSet:
    if not all(first <= low and high <= stop for low, high in ranges):
        raise ValueError(f"{shown(ranges)} are not all in {first} to {stop}")
    return RangeSet.of(ranges)


def _offsets_within(offsets: list[int], first: int, stop: int) -> None:
    _within([(offset, offset + 1) for offset in offsets], first, stop)


# --- one function a kind ---------------------------------------------------------------------------------------------


def _replay_snapshot(book: Book, note: Note) -> None:
    fresh = Book()
    fresh.notes = book.notes
    fresh.next_lease = _count(note, "next_lease")
    fresh.next_group = _count(note, "next_group")
    fresh.next_intents = {stream: _as_count(intent) for stream, intent in dict(note["next_intents"]).items()}
    known = {field.name for field in fields(Counters)}
    counters = {name: _as_count(count) for name, count in dict(note["counters"]).items() if name in known}
    fresh.counters = Counters(**counters)
    vars(book).update(vars(fresh))  # what stood before a snapshot is in it


def _replay_cursor(book: Book, note: Note) -> None:
    stream, bucket = _shard(note)
    floor, uuid, epoch = _count(note, "cursor"), _text(note, "uuid"), _count(note, "epoch")
    ledger = book.cursor((check_name("stream", stream), bucket), floor, uuid, epoch)
    if "next" in note:
        ledger.next = stop = _count(note, "next")
        _demand(floor <= stop, "its records were leased up to before its cursor")
        ledger.settled = _within(_ranges(note, "settled"), floor, stop)
        ledger.returned = _within(_ranges(note, "returned"), floor, stop)
        ledger.suspects = _within(_ranges(note, "suspects"), floor, stop)
        ledger.delayed = {_as_count(offset): _as_seconds(delay) for offset, delay in note["delayed"]}
        ledger.burned = {_as_count(offset): _burned(*burned) for offset, *burned in note["burned"]}
        _offsets_within([*ledger.delayed, *ledger.burned], floor, stop)


def _burned(attempts: Any, error: Any, deadly: Any) -> Burned:
    return Burned(_as_count(attempts), _as_text(error), _as_flag(deadly))


def _replay_epoch(book: Book, note: Note) -> None:
    book.raise_epoch(_ledger(book, note), _count(note, "epoch"))


def _replay_lease(book: Book, note: Note) -> None:
    ledger, number, (first, stop) = _ledger(book, note), _count(note, "lease"), _span(note)
    _demand(number >= book.next_lease, "its lease was given out before")
    # The end of a delay is not noted: that a record was leased shows that its delay was over.
    ledger.end_delays(first, stop)
    source = State.SUSPECT if _flag(note, "alone") else State.WAITING
    book.next_lease = number
    book.lease(book.hand(_text(note, "to")), ledger, source, first, stop, _count(note, "bytes"))


def _replay_held(book: Book, note: Note) -> None:
    ledger, number, (first, stop) = _ledger(book, note), _count(note, "held"), _span(note)
    _demand(number < book.next_lease and number not in book.leases, "its lease is known already, or not yet")
    _demand(stop <= ledger.next, "its lease reaches beyond what was leased")
    still = _within(_ranges(note, "open"), first, stop)
    left = [_as_count(offset) for offset in note["left"]]
    _demand(all(offset in still for offset in left), "it left what it did not have")
    state = State.ISOLATED if _flag(note, "alone") else State.LEASED
    lease = Lease(number, book.hand(_text(note, "to")), ledger.shard, first, stop, _count(note, "bytes"), state)
    lease.hand.records -= lease.open.count
    lease.open = still
    lease.hand.records += lease.open.count
    lease.own = {offset: Own(inf, left=True) for offset in left} or None
    book.leases[number] = ledger.leases[number] = lease


def _replay_ended(book: Book, note: Note) -> None:
    ledger, number, (first, stop) = _ledger(book, note), _count(note, "ended"), _span(note)
    _demand(number < book.next_lease and number not in book.leases, "its lease has not ended")
    lease = Lease(number, book.hand(_text(note, "to")), ledger.shard, first, stop, 0, State.LEASED)
    lease.take(first, stop)
    lease.end()
    book.ended[lease.number] = lease


def _settler(kind: str) -> Callable[[Book, Note], None]:
    def settle(book: Book, note: Note) -> None:
        ledger, number = _ledger(book, note), _count(note, kind)
        lease = book.leases.get(number) or book.ended.get(number)
        _demand(lease is None or lease.shard == ledger.shard, "its lease is of another shard")
        book.settle(kind, number, ledger, lease, _ranges(note))

    return settle


def _replay_release(book: Book, note: Note) -> None:
    book.release(_ledger(book, note), _lease(book, note, "release"), _ranges(note))


def _replay_retry(book: Book, note: Note) -> None:
    lease, offset, after = _lease(book, note, "retry"), _count(note, "offset"), _as_seconds(note["after"])
    book.retry(_ledger(book, note), lease, offset, after, _text(note, "error"), deadly=_flag(note, "deadly"))


def _replay_overdue(book: Book, note: Note) -> None:
    book.overdue(_ledger(book, note), _lease(book, note, "overdue"), _count(note, "offset"), _text(note, "error"))


def _replay_lost(book: Book, note: Note) -> None:
    book.lose(_ledger(book, note), _lease(book, note, "lost"), _count(note, "offset"), _text(note, "error"))


def _replay_suspect(book: Book, note: Note) -> None:
    lease, ranges = _lease(book, note, "lease"), _ranges(note)
    book.suspect(_count(note, "suspect"), _ledger(book, note), lease, ranges, _text(note, "error"))


def _replay_cleared(book: Book, note: Note) -> None:
    book.clear(_count(note, "cleared"))


def _replay_abandon(book: Book, note: Note) -> None:
    lease, offset = book.leases[_count(note, "abandon")], _count(note, "offset")
    _demand(offset in lease.open, "it left what it did not have")
    book.abandon(lease, offset)


def _letter(book: Book, note: Note, kind: str) -> DeadLetter:
    stream, bucket = _ledger(book, note).shard
    intent, offset = _count(note, kind), _count(note, "offset")
    _demand((stream, intent) not in book.intents, "its intent is known already")
    texts = {name: _text(note, name) for name in ("reason", "error", "consumer")}
    return DeadLetter(intent=intent, stream=stream, bucket=bucket, offset=offset, attempts=_count(note, "attempts"), **texts)


def _replay_intent(book: Book, note: Note) -> None:
    ledger = _ledger(book, note)
    book.intend(ledger, ledger.holder(_count(note, "offset")), _letter(book, note, "intent"))


def _replay_dying(book: Book, note: Note) -> None:
    ledger, letter = _ledger(book, note), _letter(book, note, "dying")
    if _flag(note, "stray"):
        book.enter_intent(None, letter)
        return
    # It may lie below the floor: what is trimmed while it dies is still to be stored.
    _demand(letter.offset < ledger.next and letter.offset not in ledger.dying, "no such record can die")
    book.enter_intent(ledger, letter)


def _replay_stored(book: Book, note: Note) -> None:
    book.stored(_text(note, "stream"), _count(note, "stored"))


def _replay_cut(book: Book, note: Note) -> None:
    book.cut_back(_ledger(book, note), _count(note, "cut"))


def _replay_start(book: Book, note: Note) -> None:
    number = _count(note, "start")
    _demand(number >= book.next_lease, "its leases were given out before")
    book.start(number)


def _replay_trim(book: Book, note: Note) -> None:
    book.trim(_ledger(book, note), _count(note, "trim"))


def _replay_group(book: Book, note: Note) -> None:
    members = {
        (_as_text(stream), _as_count(bucket)): RangeSet.of(_as_ranges(ranges)) for stream, bucket, ranges in note["members"]
    }
    _demand(all(shard in book.ledgers for shard in members), "it has members of a shard that is not known")
    book.groups[_count(note, "group")] = members


_KINDS: dict[str, Callable[[Book, Note], None]] = {
    "abandon": _replay_abandon,
    "ack": _settler("ack"),
    "cleared": _replay_cleared,
    "cursor": _replay_cursor,
    "cut": _replay_cut,
    "drop": _settler("drop"),
    "dying": _replay_dying,
    "ended": _replay_ended,
    "epoch": _replay_epoch,
    "group": _replay_group,
    "held": _replay_held,
    "intent": _replay_intent,
    "lease": _replay_lease,
    "lost": _replay_lost,
    "overdue": _replay_overdue,
    "release": _replay_release,
    "retry": _replay_retry,
    "snapshot": _replay_snapshot,
    "start": _replay_start,
    "stored": _replay_stored,
    "suspect": _replay_suspect,
    "trim": _replay_trim,
}

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

Note = dict[str, Any]


def replay(book: Book, note: Note) -> bool:
    """Does again what a note says. Returns False for a kind of note that this version does not know.

    Raises:
        Damaged: the note cannot follow those before it, or lacks a key.
    """
    act = _KINDS.get(next(iter(note), ""))
    if act is None:
        return False
    book.notes.muted = True
    try:
        act(book, note)
    except (KeyError, TypeError, ValueError, IllegalStep) as error:
        raise Damaged(f"the note {note!r:.500} does not fit the sink's log before it: {error!r}") from error
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
        ledger = book.ledgers[letter.stream, letter.bucket]
        # Of a stream that was made anew meanwhile: the intent stands, but none of its records is meant.
        stray = ledger.dying.get(letter.offset) is not letter
        notes.append(letter_note("dying", letter) | ({"stray": True} if stray else {}))
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


# --- one function a kind ---------------------------------------------------------------------------------------------


def _shard(note: Note) -> Shard:
    return note["stream"], note["bucket"]


def _ledger(book: Book, note: Note) -> Ledger:
    return book.ledgers[_shard(note)]


def _ranges(note: Note) -> list[Range]:
    return [(first, stop) for first, stop in note["ranges"]]


def _replay_snapshot(book: Book, note: Note) -> None:
    fresh = Book()
    fresh.notes = book.notes
    vars(book).update(vars(fresh))  # what stood before a snapshot is in it
    book.next_lease = note["next_lease"]
    book.next_group = note["next_group"]
    book.next_intents = dict(note["next_intents"])
    known = {field.name for field in fields(Counters)}
    book.counters = Counters(**{name: count for name, count in note["counters"].items() if name in known})


def _replay_cursor(book: Book, note: Note) -> None:
    ledger = book.cursor(_shard(note), note["cursor"], note["uuid"], note["epoch"])
    if "next" in note:
        ledger.next = note["next"]
        ledger.settled = RangeSet.of(note["settled"])
        ledger.returned = RangeSet.of(note["returned"])
        ledger.suspects = RangeSet.of(note["suspects"])
        ledger.delayed = dict(note["delayed"])
        ledger.burned = {offset: Burned(*burned) for offset, *burned in note["burned"]}


def _replay_epoch(book: Book, note: Note) -> None:
    book.raise_epoch(_ledger(book, note), note["epoch"])


def _replay_lease(book: Book, note: Note) -> None:
    ledger = _ledger(book, note)
    first, stop = note["first"], note["first"] + note["count"]
    # The end of a delay is not noted: that a record was leased shows that its delay was over.
    ledger.end_delays(first, stop)
    source = State.SUSPECT if note.get("alone") else State.WAITING
    book.next_lease = note["lease"]
    book.lease(book.hand(note["to"]), ledger, source, first, stop, note["bytes"])


def _replay_held(book: Book, note: Note) -> None:
    ledger = _ledger(book, note)
    first, stop = note["first"], note["first"] + note["count"]
    state = State.ISOLATED if note["alone"] else State.LEASED
    lease = Lease(note["held"], book.hand(note["to"]), ledger.shard, first, stop, note["bytes"], state)
    lease.hand.records -= lease.open.count
    lease.open = RangeSet.of(note["open"])
    lease.hand.records += lease.open.count
    lease.own = {offset: Own(inf, left=True) for offset in note["left"]} or None
    book.leases[lease.number] = ledger.leases[lease.number] = lease


def _replay_ended(book: Book, note: Note) -> None:
    first, stop = note["first"], note["first"] + note["count"]
    lease = Lease(note["ended"], book.hand(note["to"]), _shard(note), first, stop, 0, State.LEASED)
    lease.take(first, stop)
    lease.end()
    book.ended[lease.number] = lease


def _settler(kind: str) -> Callable[[Book, Note], None]:
    def settle(book: Book, note: Note) -> None:
        number = note[kind]
        lease = book.leases.get(number) or book.ended.get(number)
        book.settle(kind, number, _ledger(book, note), lease, _ranges(note))

    return settle


def _replay_release(book: Book, note: Note) -> None:
    book.release(_ledger(book, note), book.leases[note["release"]], _ranges(note))


def _replay_retry(book: Book, note: Note) -> None:
    lease, deadly = book.leases[note["retry"]], note.get("deadly", False)
    book.retry(_ledger(book, note), lease, note["offset"], note["after"], note["error"], deadly=deadly)


def _replay_overdue(book: Book, note: Note) -> None:
    book.overdue(_ledger(book, note), book.leases[note["overdue"]], note["offset"], note["error"])


def _replay_lost(book: Book, note: Note) -> None:
    book.lose(_ledger(book, note), book.leases[note["lost"]], note["offset"], note["error"])


def _replay_suspect(book: Book, note: Note) -> None:
    book.suspect(note["suspect"], _ledger(book, note), book.leases[note["lease"]], _ranges(note), note["error"])


def _replay_cleared(book: Book, note: Note) -> None:
    book.clear(note["cleared"])


def _replay_abandon(book: Book, note: Note) -> None:
    book.abandon(book.leases[note["abandon"]], note["offset"])


def _letter(note: Note, kind: str) -> DeadLetter:
    names = ("stream", "bucket", "offset", "attempts", "reason", "error", "consumer")
    return DeadLetter(intent=note[kind], **{name: note[name] for name in names})


def _replay_intent(book: Book, note: Note) -> None:
    ledger = _ledger(book, note)
    book.intend(ledger, ledger.holder(note["offset"]), _letter(note, "intent"))


def _replay_dying(book: Book, note: Note) -> None:
    book.enter_intent(None if note.get("stray") else _ledger(book, note), _letter(note, "dying"))


def _replay_stored(book: Book, note: Note) -> None:
    book.stored(note["stream"], note["stored"])


def _replay_trim(book: Book, note: Note) -> None:
    book.trim(_ledger(book, note), note["trim"])


def _replay_group(book: Book, note: Note) -> None:
    book.groups[note["group"]] = {(stream, bucket): RangeSet.of(ranges) for stream, bucket, ranges in note["members"]}


_KINDS: dict[str, Callable[[Book, Note], None]] = {
    "abandon": _replay_abandon,
    "ack": _settler("ack"),
    "cleared": _replay_cleared,
    "cursor": _replay_cursor,
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
    "stored": _replay_stored,
    "suspect": _replay_suspect,
    "trim": _replay_trim,
}

"""From a sink's log to its state and back: `replay` does what a note says, `snapshot` says all that is to be known.

The forms are drawn in `notes.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields
from math import inf
from typing import Any

from dq.core.book import Book
from dq.core.counters import Counters
from dq.core.leases import Hand, Lease, Own, Past, Shard
from dq.core.ledger import Burned, Ledger
from dq.core.note_values import (
    COUNT_MAX,
    Note,
    as_count,
    as_flag,
    as_ranges,
    as_seconds,
    as_text,
    check_offsets,
    count_of,
    demand,
    flag_of,
    ranges_of,
    ranges_within,
    text_of,
)
from dq.core.notes import lease_note, letter_note
from dq.core.ranges import Range, RangeSet
from dq.core.states import IllegalStep, State
from dq.errors import Damaged
from dq.model.dead_letter import DeadLetter
from dq.model.names import check_name
from dq.model.shown import outlined


def replay(book: Book, note: Note) -> bool:
    """Does again what a note says. Returns False for a kind of note that this version does not know.

    Raises:
        Damaged: the note cannot follow those before it, lacks a key, or has something else there than `notes.py` draws.
    """
    if type(note) is not dict:
        raise Damaged(f"the sink's log has {outlined(note)} where a note is expected")
    act = _KINDS.get(next(iter(note), ""))
    if act is None:
        return False
    book.notes.muted = True
    try:
        act(book, note)
    except (KeyError, TypeError, ValueError, IllegalStep) as error:
        raise Damaged(f"the note {outlined(note)} does not fit the sink's log before it: {error!r:.500}") from error
    finally:
        book.notes.muted = False
    return True


def snapshot(book: Book) -> list[bytes]:
    """Notes that rebuild the whole state, the first of which makes all earlier ones void."""
    head: Note = {"snapshot": 1, "next_lease": book.next_lease, "next_group": book.next_group}
    head |= {"next_intents": book.next_intents, "counters": asdict(book.counters), "paused": book.paused}
    notes = [head]
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
    return text_of(note, "stream"), count_of(note, "bucket")


def _ledger(book: Book, note: Note) -> Ledger:
    return book.ledgers[_shard(note)]


def _lease(book: Book, note: Note, kind: str) -> Lease:
    """The lease that the note is about, of the shard that it names."""
    lease = book.leases[count_of(note, kind)]
    demand(lease.shard == _shard(note), "its lease is of another shard")
    return lease


def _span(note: Note) -> Range:
    first, count = count_of(note, "first"), count_of(note, "count")
    demand(count > 0 and first + count <= COUNT_MAX, "its range is none")
    return first, first + count


# --- one function a kind ---------------------------------------------------------------------------------------------


def _replay_snapshot(book: Book, note: Note) -> None:
    fresh = Book()
    fresh.notes = book.notes
    fresh.next_lease = count_of(note, "next_lease")
    fresh.next_group = count_of(note, "next_group")
    fresh.next_intents = {stream: as_count(intent) for stream, intent in dict(note["next_intents"]).items()}
    known = {field.name for field in fields(Counters)}
    counters = {name: as_count(count) for name, count in dict(note["counters"]).items() if name in known}
    fresh.counters = Counters(**counters)
    fresh.paused = flag_of(note, "paused")
    vars(book).update(vars(fresh))  # what stood before a snapshot is in it


def _replay_cursor(book: Book, note: Note) -> None:
    stream, bucket = _shard(note)
    floor, uuid, epoch = count_of(note, "cursor"), text_of(note, "uuid"), count_of(note, "epoch")
    ledger = book.cursor((check_name("stream", stream), bucket), floor, uuid, epoch)
    if "next" in note:
        ledger.next = stop = count_of(note, "next")
        demand(floor <= stop, "its records were leased up to before its cursor")
        ledger.settled = ranges_within(ranges_of(note, "settled"), floor, stop)
        ledger.returned = ranges_within(ranges_of(note, "returned"), floor, stop)
        ledger.suspects = ranges_within(ranges_of(note, "suspects"), floor, stop)
        ledger.delayed = {as_count(offset): as_seconds(delay) for offset, delay in note["delayed"]}
        ledger.burned = {as_count(offset): _burned(*burned) for offset, *burned in note["burned"]}
        check_offsets([*ledger.delayed, *ledger.burned], floor, stop)


def _burned(attempts: Any, error: Any, deadly: Any) -> Burned:
    return Burned(as_count(attempts), as_text(error), as_flag(deadly))


def _replay_epoch(book: Book, note: Note) -> None:
    book.raise_epoch(_ledger(book, note), count_of(note, "epoch"))


def _replay_lease(book: Book, note: Note) -> None:
    ledger, number, (first, stop) = _ledger(book, note), count_of(note, "lease"), _span(note)
    demand(number >= book.next_lease, "its lease was given out before")
    # The end of a delay is not noted: that a record was leased shows that its delay was over.
    ledger.end_delays(first, stop)
    source = State.SUSPECT if flag_of(note, "alone") else State.WAITING
    book.next_lease = number
    without = _without(note, first, stop)
    hand, size = _hand(book, note), count_of(note, "bytes")
    book.lease(hand, ledger, source, first, stop, size, without, _came(note, first, stop, without))


def _hand(book: Book, note: Note) -> Hand:
    """Whose a lease is. Of one that has ended its process may be another one than that of those it has in hand."""
    hand, pid = book.hand(text_of(note, "to")), as_count(note.get("pid", 0))
    if "ended" not in note or not hand.pid:
        hand.pid = pid
    return hand


def _came(note: Note, first: int, stop: int, without: list[Range]) -> list[Past]:
    """What records of a lease have burned before they came to this sink."""
    left_out, came, said = RangeSet.of(without), list[Past](), note.get("burned", [])
    demand(type(said) is list, "what its records have burned is no list")
    for parts in said:
        demand(type(parts) is list and len(parts) == 4, "what its records have burned is no list of four")
        begin, count, attempts, error = parts
        begin, count = as_count(begin), as_count(count)
        demand(count > 0 and first <= begin and begin + count <= stop, "what its records have burned lies beside its lease")
        demand(not left_out.within(begin, begin + count), "records that it passes over have burned something")
        demand(type(error) is str, "the error that its records came with is no text")
        came.append((begin, count, as_count(attempts), error))
    return came


def _without(note: Note, first: int, stop: int) -> list[Range]:
    """What a lease passes over. It leaves one record at the least."""
    without = ranges_within(ranges_of(note, "without") if "without" in note else [], first, stop)
    demand(without.count < stop - first, "its lease has no record")
    return list(without)


def _replay_deliver(book: Book, note: Note) -> None:
    ledger, number, (first, stop) = _ledger(book, note), count_of(note, "deliver"), _span(note)
    demand(number >= book.next_lease, "its lease was given out before")
    hand, without = Hand(text_of(note, "to")), _without(note, first, stop)
    book.next_lease = number
    book.deliver(hand, ledger, first, stop, without)


def _passer(kind: str) -> Callable[[Book, Note], None]:
    def pass_over(book: Book, note: Note) -> None:
        ledger, ranges = _ledger(book, note), ranges_of(note, kind)
        book.pass_over(kind, ledger, ranges)

    return pass_over


def _replay_held(book: Book, note: Note) -> None:
    ledger, number, (first, stop) = _ledger(book, note), count_of(note, "held"), _span(note)
    demand(number < book.next_lease and number not in book.leases, "its lease is known already, or not yet")
    demand(stop <= ledger.next, "its lease reaches beyond what was leased")
    still = ranges_within(ranges_of(note, "open"), first, stop)
    left = [as_count(offset) for offset in note["left"]]
    demand(all(offset in still for offset in left), "it left what it did not have")
    state = State.ISOLATED if flag_of(note, "alone") else State.LEASED
    lease = Lease(number, _hand(book, note), ledger.shard, first, stop, count_of(note, "bytes"), state)
    lease.hand.records -= lease.open.count
    lease.open = still
    lease.hand.records += lease.open.count
    lease.own = {offset: Own(inf, left=True) for offset in left} or None
    book.leases[number] = ledger.leases[number] = lease


def _replay_ended(book: Book, note: Note) -> None:
    ledger, number, (first, stop) = _ledger(book, note), count_of(note, "ended"), _span(note)
    demand(number < book.next_lease and number not in book.leases, "its lease has not ended")
    lease = Lease(number, _hand(book, note), ledger.shard, first, stop, 0, State.LEASED)
    lease.take(first, stop)
    lease.end()
    book.ended[lease.number] = lease


def _settler(kind: str) -> Callable[[Book, Note], None]:
    def settle(book: Book, note: Note) -> None:
        ledger, number = _ledger(book, note), count_of(note, kind)
        lease = book.leases.get(number) or book.ended.get(number)
        demand(lease is None or lease.shard == ledger.shard, "its lease is of another shard")
        book.settle(kind, number, ledger, lease, ranges_of(note))

    return settle


def _replay_release(book: Book, note: Note) -> None:
    book.release(_ledger(book, note), _lease(book, note, "release"), ranges_of(note))


def _replay_retry(book: Book, note: Note) -> None:
    lease, offset, after = _lease(book, note, "retry"), count_of(note, "offset"), as_seconds(note["after"])
    book.retry(_ledger(book, note), lease, offset, after, text_of(note, "error"), deadly=flag_of(note, "deadly"))


def _replay_overdue(book: Book, note: Note) -> None:
    book.overdue(_ledger(book, note), _lease(book, note, "overdue"), count_of(note, "offset"), text_of(note, "error"))


def _replay_lost(book: Book, note: Note) -> None:
    book.lose(_ledger(book, note), _lease(book, note, "lost"), count_of(note, "offset"), text_of(note, "error"))


def _replay_suspect(book: Book, note: Note) -> None:
    lease, ranges = _lease(book, note, "lease"), ranges_of(note)
    book.suspect(count_of(note, "suspect"), _ledger(book, note), lease, ranges, text_of(note, "error"))


def _replay_cleared(book: Book, note: Note) -> None:
    book.clear(count_of(note, "cleared"))


def _replay_abandon(book: Book, note: Note) -> None:
    lease, offset = book.leases[count_of(note, "abandon")], count_of(note, "offset")
    demand(offset in lease.open, "it left what it did not have")
    book.abandon(lease, offset)


def _replay_extend(book: Book, note: Note) -> None:
    lease = _lease(book, note, "extend")
    demand(count_of(note, "offset") in lease.open, "it has no such record in hand")
    as_seconds(note["seconds"])  # deadlines start anew with the broker


def _letter(book: Book, note: Note, kind: str) -> DeadLetter:
    stream, bucket = _shard(note)
    intent, offset = count_of(note, kind), count_of(note, "offset")
    texts = {name: text_of(note, name) for name in ("reason", "error", "consumer")}
    due, attempts = as_seconds(note.get("due", 0.0)), count_of(note, "attempts")
    letter = DeadLetter(intent=intent, stream=stream, bucket=bucket, offset=offset, attempts=attempts, due=due, **texts)
    demand((letter.lane, intent) not in book.intents, "its intent is known already")
    return letter


def _replay_intent(book: Book, note: Note) -> None:
    ledger = _ledger(book, note)
    book.intend(ledger, ledger.holder(count_of(note, "offset")), _letter(book, note, "intent"))


def _replay_dying(book: Book, note: Note) -> None:
    letter = _letter(book, note, "dying")
    if flag_of(note, "stray"):  # maybe of a stream that the sink is over no more
        check_name("stream", letter.stream)
        book.enter_intent(None, letter)
        return
    ledger = _ledger(book, note)
    # It may lie below the floor: what is trimmed while it dies is still to be stored.
    demand(letter.offset < ledger.next and letter.offset not in ledger.dying, "no such record can die")
    book.enter_intent(ledger, letter)


def _replay_stored(book: Book, note: Note) -> None:
    book.stored(text_of(note, "stream"), count_of(note, "stored"))


def _replay_cut(book: Book, note: Note) -> None:
    book.cut_back(_ledger(book, note), count_of(note, "cut"))


def _replay_start(book: Book, note: Note) -> None:
    number = count_of(note, "start")
    demand(number >= book.next_lease, "its leases were given out before")
    book.start(number)


def _replay_trim(book: Book, note: Note) -> None:
    book.trim(_ledger(book, note), count_of(note, "trim"), as_count(note.get("removed", 0)))


def _replay_forget(book: Book, note: Note) -> None:
    stream = text_of(note, "forget")
    demand(any(shard[0] == stream for shard in book.ledgers), "the sink is not over that stream")
    book.forget_stream(stream)


def _replay_paused(book: Book, note: Note) -> None:
    book.pause(as_flag(note["paused"]))


def _replay_group(book: Book, note: Note) -> None:
    members = {
        (as_text(stream), as_count(bucket)): RangeSet.of(as_ranges(ranges)) for stream, bucket, ranges in note["members"]
    }
    demand(all(shard in book.ledgers for shard in members), "it has members of a shard that is not known")
    book.groups[count_of(note, "group")] = members


_KINDS: dict[str, Callable[[Book, Note], None]] = {
    "abandon": _replay_abandon,
    "ack": _settler("ack"),
    "cleared": _replay_cleared,
    "cursor": _replay_cursor,
    "cut": _replay_cut,
    "deliver": _replay_deliver,
    "drop": _settler("drop"),
    "dying": _replay_dying,
    "ended": _replay_ended,
    "epoch": _replay_epoch,
    "expire": _passer("expire"),
    "expired": _settler("expired"),
    "extend": _replay_extend,
    "forget": _replay_forget,
    "group": _replay_group,
    "held": _replay_held,
    "intent": _replay_intent,
    "lease": _replay_lease,
    "lost": _replay_lost,
    "overdue": _replay_overdue,
    "paused": _replay_paused,
    "release": _replay_release,
    "remove": _passer("remove"),
    "retry": _replay_retry,
    "skip": _passer("skip"),
    "snapshot": _replay_snapshot,
    "start": _replay_start,
    "stored": _replay_stored,
    "suspect": _replay_suspect,
    "trim": _replay_trim,
}

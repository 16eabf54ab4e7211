"""The delayed records of one stream: which of them wait, until when, which are on their way, and which have come.

Pure, as a sink's core: it takes `now`, and notes each decision before anybody hears of it. The forms of the notes::

    {"later":"emails-later","uuid":"5c1e","epoch":1}       the log of the delayed records begins, or begins anew
    {"move":17,"bucket":2,"offsets":[5,9,7]}               these are batch 17 for bucket 2 of the stream, in this order
    {"moved":17,"bucket":2}                                it is stored there
    {"gone":[[20,30]]}                                     taken out or trimmed before their time: they never come
    {"void":17,"bucket":2}                                 its records cannot be read any more; numbers of bucket 2 begin anew
    {"anew":2}                                             bucket 2 lost batches that were stored; numbers begin anew for it
    {"cut":900,"epoch":2}                                  the log lost what was from 900 on
    {"epoch":2}                                            the log was opened anew after an unclean stop
    {"snapshot":1, "later":"emails-later","uuid":"5c1e","epoch":1,"making":0,"floor":5,"settled":"<base64>",
        "numbers":[[2,18]],"moves":[[2,17,[5,9,7]]],"moved":1200,"gone":10}           all of it; earlier notes are void

When a record is due stands in the record; what is kept here is the floor and one bit for each beyond it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import Any, NamedTuple

import orjson

from dq.core.note_values import Note, as_count, as_ranges, as_text, count_of, demand, text_of
from dq.core.offset_bits import OffsetBits
from dq.core.ranges import Range
from dq.core.schedule import Schedule
from dq.errors import Damaged
from dq.model.shown import outlined

_LONGEST_SECONDS = 1e10
"""300 years: whoever says more means never, and ticks of a clock are still counted in whole numbers."""


class Move(NamedTuple):
    """One batch on its way: `offsets` of delayed records, in the order in which they are to stand in `bucket`."""

    bucket: int
    number: int
    offsets: tuple[int, ...]


class Later:
    """The state of one stream's delayed records.

    Attributes:
        stream: the one in which they wait.
        uuid, epoch: which one of that name, and how often it was opened after an unclean stop.
        making: how often numbers began anew, for all buckets.
        next: the first record that has not been looked at since this began to live.
        moved: how many records have come to their stream.
        gone: how many never will: removed, trimmed or lost.
    """

    def __init__(self, stream: str) -> None:
        self.stream, self.uuid, self.epoch, self.making = stream, "", 0, 0
        self.next = self.moved = self.gone = 0
        self._settled = OffsetBits()
        self._schedule = Schedule()
        self._numbers: dict[int, int] = {}
        self._anew: dict[int, int] = {}
        self._moves: dict[tuple[int, int], Move] = {}
        self._moving: set[int] = set()
        self._notes: list[Note] = []

    # --- its log -----------------------------------------------------------------------------------------------------

    def take_notes(self) -> list[bytes]:
        """What was noted since the last call, one JSON line each. To be written before anything is sent."""
        notes, self._notes = self._notes, []
        return [_line(note) for note in notes]

    def snapshot(self) -> list[bytes]:
        """A line that rebuilds the whole state and makes all earlier ones void."""
        moves = [[move.bucket, move.number, list(move.offsets)] for move in self._moves.values()]
        state = {"snapshot": 1, "later": self.stream, "uuid": self.uuid, "epoch": self.epoch, "making": self.making}
        anew = {"anew": sorted(self._anew.items())} if self._anew else {}
        kept = {"floor": self.floor, "settled": self._settled.encode(), "numbers": sorted(self._numbers.items())}
        return [_line({**state, **kept, "moves": moves, "moved": self.moved, "gone": self.gone, **anew})]

    def replay(self, note: Any) -> None:
        """Does again what a note says. All of them, in order, before anything else.

        Raises:
            Damaged: the note cannot follow those before it.
        """
        if type(note) is not dict:
            raise Damaged(f"the log of {self.stream} has {outlined(note)} where a note is expected")
        act = _KINDS.get(next(iter(note), ""))
        if act is None:
            return
        try:
            act(self, note)
        except (KeyError, TypeError, ValueError) as error:
            raise Damaged(
                f"the note {outlined(note)} does not fit the log of {self.stream} before it: {error!r:.500}"
            ) from error
        finally:
            self._notes.clear()
        self.next = self.floor

    # --- what there is -----------------------------------------------------------------------------------------------

    @property
    def floor(self) -> int:
        """All below has come, or never will: nobody needs it any more."""
        return self._settled.floor

    def is_over(self, offset: int) -> bool:
        """Whether a record has come, or never will."""
        return offset in self._settled

    def waiting(self, end: int) -> int:
        """How many records below `end` neither have come nor never will."""
        return max(end - self._settled.count, 0)

    def moves(self) -> list[Move]:
        """The batches that are on their way, in the order of their numbers."""
        return sorted(self._moves.values())

    @property
    def last_known(self) -> int:
        """Beyond the last record of which something is noted."""
        return max(max(self._moving, default=-1) + 1, self._settled.stop)

    @property
    def under_way(self) -> int:
        """How many batches those are."""
        return len(self._moves)

    def next_due(self) -> float | None:
        """When `take_due` is to be called next, in monotonic seconds; None where nothing waits."""
        return self._schedule.due()

    def first_due(self) -> float | None:
        """When the next record is due, in monotonic seconds; None where nothing waits."""
        return self._schedule.first()

    # --- the stream in which they wait -------------------------------------------------------------------------------

    def begin(self, uuid: str, epoch: int) -> None:
        """It is one that was not known: nothing of what was known of an earlier one of its name counts."""
        self.uuid, self.epoch, self.making, self.next = uuid, epoch, 0, 0
        self._settled, self._schedule = OffsetBits(), Schedule()
        self._numbers, self._moves, self._moving, self._anew = {}, {}, set(), {}
        self._notes.append({"later": self.stream, "uuid": uuid, "epoch": epoch})

    def begin_epoch(self, epoch: int, end: int | None = None) -> int:
        """It was opened anew after an unclean stop; `end`: it had lost what was from there on. Returns how many records that
        had been looked at are gone. Batches that were under way with one of them are given up."""
        self.epoch = epoch
        if end is None:
            self._notes.append({"epoch": epoch})
            return 0
        lost = max(self.next - end, 0)
        for move in [move for move in self._moves.values() if max(move.offsets) >= end]:
            self._forget(move)
        self._settled.cut(end)
        self._schedule, self.next = Schedule(), self.floor
        self.making += 1
        self._notes.append({"cut": end, "epoch": epoch})
        return lost

    def learn(self, offset: int, deadline: float, now: float) -> None:
        """The record at `offset` is due at `deadline`. Each is learned once, in order."""
        self.next = offset + 1
        if offset not in self._settled and offset not in self._moving:
            self._schedule.put(deadline, offset, now)

    def lose(self, ranges: Iterable[Range]) -> int:
        """Records were taken out, or trimmed: they never come, unless they are on their way. Returns how many those are."""
        done: list[Range] = []
        for first, stop in ranges:
            begin = first = max(first, self.floor)
            for offset in [*sorted(each for each in self._moving if first <= each < stop), stop]:
                if offset > begin:
                    done.append((begin, offset))
                begin = offset + 1
        count = sum([self._settle(range(first, stop)) for first, stop in done])
        if count:
            self.gone += count
            self._notes.append({"gone": done})
        return count

    # --- the way -----------------------------------------------------------------------------------------------------

    def take_due(self, now: float, most: int) -> list[int]:
        """Offsets of up to `most` records whose time has come, in the order of their times. They are to be moved, or put
        back. It is to be called again at `next_due`, which may be at once though it gave none."""
        return [offset for offset in self._schedule.take(now, most) if offset not in self._settled]

    def put_back(self, offsets: Iterable[int], deadline: float, now: float) -> None:
        """Records that were taken out cannot be moved now: they are tried again then."""
        for offset in offsets:
            self._schedule.put(deadline, offset, now)

    def move(self, bucket: int, offsets: Sequence[int]) -> Move:
        """Records are a batch of their stream from now on. Its note is to be on disk before it is sent."""
        number = self._numbers.get(bucket, 0)
        made = Move(bucket, number, tuple(offsets))
        self._enter(made)
        self._notes.append({"move": number, "bucket": bucket, "offsets": list(offsets)})
        return made

    def _enter(self, move: Move) -> None:
        self._numbers[move.bucket] = max(self._numbers.get(move.bucket, 0), move.number + 1)
        self._moves[move.bucket, move.number] = move
        self._moving.update(move.offsets)

    def stored(self, bucket: int, number: int) -> int:
        """A batch is stored. Once more changes nothing. Returns how many records have come with it."""
        move = self._moves.get((bucket, number))
        if move is None:
            return 0
        self._forget(move)
        count = self._settle(move.offsets)
        self.moved += count
        self._notes.append({"moved": number, "bucket": bucket})
        return count

    def void(self, bucket: int, number: int) -> None:
        """The records of a batch, the first that is under way for its bucket, cannot be read any more, and so it cannot be sent
        again; whether it is stored is not known. The others for that bucket are batches of a new making."""
        move = self._moves.get((bucket, number))
        if move is None:
            return
        self._forget(move)
        self.gone += self._settle(move.offsets)
        self._anew[bucket] = self._anew.get(bucket, 0) + 1
        self._notes.append({"void": number, "bucket": bucket})

    def is_first(self, bucket: int, number: int) -> bool:
        """Whether no earlier batch for a bucket is under way than this one."""
        return number == min((move.number for move in self._moves.values() if move.bucket == bucket), default=None)

    def making_of(self, bucket: int) -> str:
        """What tells batches for a bucket from those whose numbers they have, from before those began anew."""
        return f"{self.making}.{self._anew[bucket]}" if bucket in self._anew else str(self.making)

    def gap(self, bucket: int, number: int) -> bool:
        """A bucket expects an earlier batch than this one. Where this is the first that is under way, those before it were
        stored and are lost, as the stream's durability allows: nothing of what is under way is stored, and it goes on as
        batches of a new making. Returns whether it does."""
        if not self.is_first(bucket, number):
            return False
        self._anew[bucket] = self._anew.get(bucket, 0) + 1
        self._notes.append({"anew": bucket})
        return True

    def _forget(self, move: Move) -> None:
        del self._moves[move.bucket, move.number]
        self._moving.difference_update(move.offsets)

    def _settle(self, offsets: Iterable[int]) -> int:
        return self._settled.add_all(offsets)

    # --- replay ------------------------------------------------------------------------------------------------------

    def _replay_begin(self, note: Note) -> None:
        demand(text_of(note, "later") == self.stream, "it is of another stream")
        self.begin(text_of(note, "uuid"), count_of(note, "epoch"))

    def _replay_move(self, note: Note) -> None:
        bucket, number = count_of(note, "bucket"), count_of(note, "move")
        demand(number == self._numbers.get(bucket, 0), "its number is not the next")
        self._enter(Move(bucket, number, self._free(note["offsets"])))

    def _free(self, values: Any) -> tuple[int, ...]:
        offsets = tuple(as_count(value) for value in values)
        demand(len(set(offsets)) == len(offsets) > 0, "a batch has each record once")
        demand(not any(offset in self._settled or offset in self._moving for offset in offsets), "its records do not wait")
        return offsets

    def _replay_moved(self, note: Note) -> None:
        demand(self.stored(count_of(note, "bucket"), count_of(note, "moved")) > 0, "no such batch is under way")

    def _replay_gone(self, note: Note) -> None:
        self.lose(as_ranges(note["gone"]))

    def _replay_void(self, note: Note) -> None:
        self.void(count_of(note, "bucket"), count_of(note, "void"))

    def _replay_anew(self, note: Note) -> None:
        bucket = count_of(note, "anew")
        self._anew[bucket] = self._anew.get(bucket, 0) + 1

    def _replay_cut(self, note: Note) -> None:
        self.begin_epoch(count_of(note, "epoch"), count_of(note, "cut"))

    def _replay_epoch(self, note: Note) -> None:
        self.begin_epoch(count_of(note, "epoch"))

    def _replay_snapshot(self, note: Note) -> None:
        self._replay_begin(note)
        self.making, self.moved, self.gone = (count_of(note, name) for name in ("making", "moved", "gone"))
        self._settled = OffsetBits.decode(count_of(note, "floor"), as_text(note["settled"]))
        for bucket, number, offsets in note["moves"]:
            self._enter(Move(as_count(bucket), as_count(number), self._free(offsets)))
        self._anew = {as_count(bucket): as_count(times) for bucket, times in note.get("anew", ())}
        self._numbers |= {as_count(bucket): as_count(number) for bucket, number in note["numbers"]}


_KINDS: dict[str, Callable[[Later, Note], None]] = {
    "later": Later._replay_begin,
    "move": Later._replay_move,
    "moved": Later._replay_moved,
    "gone": Later._replay_gone,
    "void": Later._replay_void,
    "anew": Later._replay_anew,
    "cut": Later._replay_cut,
    "epoch": Later._replay_epoch,
    "snapshot": Later._replay_snapshot,
}


def remaining(due: float, at: float, wall: float) -> float:
    """Seconds that a record still has to wait: never longer than it was to wait when it was published, however the wall clock
    has leapt since."""
    longest = max(due - at, 0.0)
    return min(max(due - wall, 0.0), longest, _LONGEST_SECONDS) if longest < inf else 0.0


def _line(note: Note) -> bytes:
    return orjson.dumps(note, option=orjson.OPT_APPEND_NEWLINE)

"""The state of a sink, rebuilt note by note by the same code with which a broker starts; pure.

Two things are not noted, and are worked out from the times of the notes: when a delay is over, and that all delays begin anew
when a broker starts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from dq.core.book import Book
from dq.core.leases import Shard
from dq.core.ledger import Ledger
from dq.core.replay import replay
from dq.core.states import State

Note = dict[str, Any]
SNAPSHOT = frozenset({"snapshot", "cursor", "held", "ended", "group", "dying"})
"""The kinds of notes that a snapshot has."""


class Said(NamedTuple):
    """A note, and when it was written, by the wall clock of its broker."""

    at: float
    note: Note


def kind_of(note: object) -> str:
    """What a note is; "" for what is none, which `replay` refuses."""
    return next(iter(note), "") if isinstance(note, dict) else ""


class Rebuilt:
    """A sink as its log has it so far.

    Attributes:
        book: its lasting state.
        since: when the first note was written; None before there is one.
        cut_short: the log begins with a snapshot: what was before is not kept.
        started: when the broker of the last notes began.
        leased_at: when each lease that is known was given out, by its number.
    """

    def __init__(self) -> None:
        self.book = Book()
        self.since: float | None = None
        self.cut_short = False
        self.started = 0.0
        self.leased_at: dict[int, float] = {}
        self._delayed_at: dict[tuple[Shard, int], float] = {}

    def take(self, said: Said) -> None:
        """Does again what a note says. Raises Damaged: it cannot follow those before it."""
        kind = kind_of(said.note)
        if self.since is None:
            self.since, self.cut_short = said.at, kind == "snapshot"
        replay(self.book, said.note)
        if kind == "retry":
            self._delayed_at[(said.note["stream"], said.note["bucket"]), said.note["offset"]] = said.at
        elif kind == "start":
            self.started = said.at
        elif kind == "lease":
            self.leased_at[said.note["lease"]] = said.at
        elif kind == "cursor":
            shard = said.note["stream"], said.note["bucket"]
            for offset in self.book.ledgers[shard].delayed:
                self._delayed_at.setdefault((shard, offset), said.at)

    def take_until(self, notes: Iterable[Said], at: float) -> None:
        """All notes up to the last one that was written at `at` or before. (The clock may have been set back meanwhile.)"""
        waiting: list[Said] = []
        for said in notes:
            waiting.append(said)
            if said.at <= at:
                for each in waiting:
                    self.take(each)
                waiting.clear()
        self.end_delays(at)

    def due_at(self, ledger: Ledger, offset: int) -> float:
        """When the delay of a record that is delayed is over, by the wall clock."""
        since = max(self._delayed_at.get((ledger.shard, offset), 0.0), self.started)
        return since + ledger.delayed[offset]

    def end_delays(self, at: float) -> None:
        """Ends the delays that were over by then."""
        for ledger in self.book.ledgers.values():
            for offset in [offset for offset in ledger.delayed if self.due_at(ledger, offset) <= at]:
                ledger.ready_now(offset)

    def state_of(self, shard: Shard, offset: int) -> State | None:
        """Where a record stands; None: the sink is not over its stream."""
        ledger = self.book.ledgers.get(shard)
        return None if ledger is None else ledger.state_of(offset)

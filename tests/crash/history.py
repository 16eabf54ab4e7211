"""What publishers and consumers said they did, and the checker of it: a total queue, after Jepsen's checker of that name.

A history is told by the processes themselves, each line before or after the act that it tells of:

- a publisher says `invoke` before it publishes, and `ok` with the receipts, or `info` where it does not know the outcome;
- a consumer says `recv` when a record is in its hands, before it settles it, and `acked` after the ack was confirmed;
- a reader says `read` of each record that it was given; one that goes on at another's position goes on with its history.

Times are `time.monotonic_ns()`, which all processes of one host share.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Invoke:
    """A publisher is about to publish `ids`."""

    ids: list[str]


@dataclass(frozen=True, slots=True)
class Ok:
    """A publisher has receipts: `places` (bucket, offset) in the order of `ids`; `exact` where one belongs to the other."""

    publisher: str
    ids: list[str]
    places: list[Place]
    exact: bool = True


@dataclass(frozen=True, slots=True)
class Info:
    """A publisher does not know what became of `ids`."""

    ids: list[str]


@dataclass(frozen=True, slots=True)
class Recv:
    """A consumer has a record in its hands."""

    at: int
    consumer: str
    id: str
    place: Place
    attempt: int
    whole: bool


@dataclass(frozen=True, slots=True)
class Acked:
    """A consumer's acks of `ids` are confirmed."""

    at: int
    consumer: str
    ids: list[str]


@dataclass(frozen=True, slots=True)
class Read:
    """A reader was given a record."""

    reader: str
    id: str
    place: Place
    whole: bool


Entry = Invoke | Ok | Info | Recv | Acked | Read


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the checker found.

    Attributes:
        lost: a receipt was given, and nobody ever received it.
        unexpected: received, but never published, or with other bytes.
        redelivered: received after its ack was confirmed.
        misplaced: received from another place than its receipt says, from two places, or two records at one place.
        disordered: a publisher's receipts whose offsets do not rise.
        invoked, stored, received, acked: how many different records.
        twice: received more than once, which is allowed before the ack.
        recovered: received, although their publisher never learned that they were stored.
    """

    lost: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    redelivered: list[str] = field(default_factory=list)
    misplaced: list[str] = field(default_factory=list)
    disordered: list[str] = field(default_factory=list)
    invoked: int = 0
    stored: int = 0
    received: int = 0
    acked: int = 0
    twice: int = 0
    recovered: int = 0

    @property
    def faults(self) -> dict[str, list[str]]:
        """All that must be empty and is not, with its first few records."""
        named = {kind: getattr(self, kind) for kind in ("lost", "unexpected", "redelivered", "misplaced", "disordered")}
        return {kind: records[:5] for kind, records in named.items() if records}


def check(history: list[Entry]) -> Verdict:
    """Judges a history that has come to its end: everything was drained."""
    invoked: set[str] = set()
    stored: dict[str, Place | None] = {}
    received: Counter[str] = Counter()
    acked_at: dict[str, int] = {}
    for entry in history:
        if isinstance(entry, Invoke):
            invoked.update(entry.ids)
        elif isinstance(entry, Ok):
            stored.update(zip(entry.ids, entry.places, strict=True) if entry.exact else dict.fromkeys(entry.ids).items())
        elif isinstance(entry, Acked):
            for record in entry.ids:
                acked_at[record] = min(entry.at, acked_at.get(record, entry.at))
    verdict = Verdict(invoked=len(invoked), stored=len(stored), acked=len(acked_at), disordered=_disordered(history))
    where: dict[Place, str] = {}
    home: dict[str, Place] = {}
    for entry in history:
        if not isinstance(entry, Recv):
            continue
        received[entry.id] += 1
        if entry.id not in invoked or not entry.whole:
            verdict.unexpected.append(entry.id)
        if entry.id in acked_at and entry.at > acked_at[entry.id]:
            verdict.redelivered.append(entry.id)
        expected = stored.get(entry.id)
        elsewhere = home.setdefault(entry.id, expected or entry.place) != entry.place
        if elsewhere or where.setdefault(entry.place, entry.id) != entry.id:
            verdict.misplaced.append(entry.id)
    verdict.lost.extend(sorted(stored.keys() - received.keys()))
    return _counted(verdict, received, stored)


@dataclass(frozen=True, slots=True)
class ReadVerdict:
    """What the checker found of a reader of a stream that keeps everything.

    Attributes:
        lost: a receipt was given, and it was not read.
        unexpected: read, but never published, or with other bytes.
        repeated: read more than once.
        disordered: read out of the order of a bucket, or after a gap: each offset is the one after that before it.
        misplaced: read from another place than its receipt says, or from two.
        read: how many different records.
        recovered: read, although their publisher never learned that they were stored.
    """

    lost: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    repeated: list[str] = field(default_factory=list)
    disordered: list[str] = field(default_factory=list)
    misplaced: list[str] = field(default_factory=list)
    read: int = 0
    recovered: int = 0

    @property
    def faults(self) -> dict[str, list[str]]:
        """All that must be empty and is not, with its first few records."""
        named = {kind: getattr(self, kind) for kind in ("lost", "unexpected", "repeated", "disordered", "misplaced")}
        return {kind: records[:5] for kind, records in named.items() if records}


def check_reading(history: list[Entry]) -> ReadVerdict:
    """Judges what was read, in the order in which it was, from the first record to the last: each once, and none left out."""
    invoked = {record for entry in history if isinstance(entry, Invoke) for record in entry.ids}
    stored: dict[str, Place | None] = {}
    for entry in history:
        if isinstance(entry, Ok):
            stored.update(zip(entry.ids, entry.places, strict=True) if entry.exact else dict.fromkeys(entry.ids).items())
    found: dict[str, list[str]] = {kind: [] for kind in ("unexpected", "repeated", "disordered", "misplaced")}
    seen: dict[str, Place] = {}
    following: Counter[int] = Counter()
    for entry in history:
        if not isinstance(entry, Read):
            continue
        bucket, offset = entry.place
        if entry.id not in invoked or not entry.whole:
            found["unexpected"].append(entry.id)
        if entry.id in seen:
            found["repeated"].append(entry.id)
        if offset != following[bucket]:
            found["disordered"].append(entry.id)
        if entry.place != (stored.get(entry.id) or seen.get(entry.id, entry.place)):
            found["misplaced"].append(entry.id)
        seen[entry.id] = entry.place
        following[bucket] = offset + 1
    lost = sorted(stored.keys() - seen.keys())
    return ReadVerdict(lost=lost, read=len(seen), recovered=len(seen.keys() - stored.keys()), **found)


def _counted(verdict: Verdict, received: Counter[str], stored: dict[str, Place | None]) -> Verdict:
    twice = sum(1 for count in received.values() if count > 1)
    recovered = len(received.keys() - stored.keys())
    found = {name: getattr(verdict, name) for name in Verdict.__slots__}
    return Verdict(**{**found, "received": len(received), "twice": twice, "recovered": recovered})


def _disordered(history: list[Entry]) -> list[str]:
    """A publisher's receipts must rise within each bucket, in the order in which it published."""
    last: dict[tuple[str, int], int] = {}
    wrong: list[str] = []
    for entry in history:
        if isinstance(entry, Ok):
            for record, (bucket, offset) in zip(entry.ids, entry.places, strict=True):
                if offset <= last.get((entry.publisher, bucket), -1):
                    wrong.append(record)
                last[entry.publisher, bucket] = offset
    return wrong

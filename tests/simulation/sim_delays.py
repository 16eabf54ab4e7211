"""What waits for its time in a simulated world: delayed records, and records that are tried again much later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson
from sim_life import LAYOUT

from dq.clock import FakeClock
from dq.model.names import LATER_SUFFIX, base_stream

if TYPE_CHECKING:
    from sim_checker import Checker

_FIRST_COPY = 1 << 40
_SLACK = 1e-3  # wall times are large: what is added to them is rounded


class Copy(NamedTuple):
    """A record as it is tried again much later: `of` where it stood, for one sink, as record `number` of its publisher."""

    of: str
    sink: str
    number: int | None
    due: float


class Delays:
    """Which records wait, and since when; told of all that is written to the logs of streams.

    Args:
        checker: whose part this is.
        objection: what is raised when something cannot be.

    Attributes:
        clock: of the world.
        copies: records that are tried again much later: each is a record of its own, by its own number.
        copied: of which (sink, id, number) there is such a one.
    """

    def __init__(self, checker: Checker, objection: Callable[[str], AssertionError]) -> None:
        self._checker, self._objection = checker, objection
        self.clock = FakeClock()
        self._walls: list[tuple[float, float]] = [(0.0, self._ahead())]
        self._due: dict[int, tuple[float, float]] = {}  # and since when it is known, in monotonic seconds
        self._expires: dict[int | None, tuple[float, float]] = {}
        self._receipts: dict[int, tuple[str, int]] = {}
        self._at: dict[tuple[str, int], int] = {}
        self._place: dict[int, tuple[str, int]] = {}
        self._arrived: set[int] = set()
        self._excused: set[int] = set()
        self._gone: set[int] = set()
        self._numbers: dict[Copy, int] = {}
        self.copies: dict[int, Copy] = {}
        self.copied: set[tuple[str, str, int | None]] = set()

    def __contains__(self, number: int) -> bool:
        """Whether it is a record that waited, or waits."""
        return number in self._due

    # --- time ------------------------------------------------------------------------------------------------------

    def _ahead(self) -> float:
        return self.clock.wall() - self.clock.monotonic()

    def begin(self, clock: FakeClock) -> None:
        """Time is that of this clock."""
        self.clock = clock
        self._walls = [(clock.monotonic(), self._ahead())]

    def wall_jumped(self) -> None:
        """The wall clock was set."""
        self._walls.append((self.clock.monotonic(), self._ahead()))

    def behind(self) -> float:
        """How far the wall clock is behind the furthest that it ever was set to."""
        return max(ahead for _, ahead in self._walls) - self._ahead()

    def longest_since_begin(self) -> float:
        """Seconds since the world began, by whichever clock went further at each step."""
        leaps = [after - before for (_, before), (_, after) in zip(self._walls, self._walls[1:], strict=False)]
        return self.clock.monotonic() + sum(leap for leap in leaps if leap > 0)

    def _latest_wall_since(self, moment: float) -> float:
        """The latest that it is now by any setting of the wall clock that was true since then."""
        ahead = max(
            ahead for place, (_, ahead) in enumerate(self._walls)
            if place + 1 == len(self._walls) or self._walls[place + 1][0] >= moment
        )  # fmt: skip
        return self.clock.monotonic() + ahead

    # --- what is said of records -----------------------------------------------------------------------------------

    def asked(self, number: int, due: float) -> None:
        """A record was handed in that is to come at `due`, wall time."""
        self._due[number] = due, self.clock.monotonic()
        self._checker.counts["delayed"] += 1

    def expires(self, number: int, at: float) -> None:
        """A record was handed in that is of no use from `at` on, wall time."""
        self._expires[number] = at, self.clock.monotonic()
        self._checker.counts["expiring"] += 1

    def may_be_over(self, number: int) -> bool:
        """Whether it is of no use any more, by any setting of the wall clock that was true since it was published."""
        at, since = self._expires.get(self._published(number), (inf, 0.0))
        return self._latest_wall_since(since) >= at

    def check_use(self, number: int, sink: str) -> None:
        """A record is in the hand of a consumer's code."""
        at, _ = self._expires.get(self._published(number), (inf, 0.0))
        if self.clock.wall() >= at:
            raise self._objection(f"record {number} was handed to {sink} {self.clock.wall() - at:.3f} s after it had expired")

    def _published(self, number: int) -> int | None:
        return self.copies[number].number if number in self.copies else number

    def receipt(self, number: int, stream: str, offset: int) -> None:
        """A publisher was told where its delayed record waits."""
        self._checker.counts["receipts of delayed records"] += 1
        if number not in self._gone:
            self._receipts[number] = stream, offset
            self._saw(stream, offset, number)

    def number_of(self, fields: Mapping[str, Any], stream: str) -> int:
        """The number of a record by its line, which stands in `stream` or waits for it. One that is tried again much later has
        one of its own."""
        payload = fields.get("payload")
        number = payload["n"] if isinstance(payload, dict) else None
        if "of" not in fields:
            assert isinstance(number, int), fields
            return number
        copy = Copy(fields["of"], fields["for"], number, fields["due"])
        known = self._numbers.get(copy)
        if known is None:
            known = self._numbers[copy] = _FIRST_COPY + len(self._numbers)
            self.copies[known] = copy
            self.copied.add((copy.sink, copy.of, number))
            self._due[known] = copy.due, 0.0  # it was decided some time before, maybe by a wall clock that was set since
            self._checker.copied(known, fields.get("topic"), stream)
            self._checker.counts["tried again much later"] += 1
        return known

    def is_for(self, number: int, sink: str) -> bool:
        """Whether a sink may have it."""
        copy = self.copies.get(number)
        return copy is None or copy.sink == sink

    def _saw(self, stream: str, offset: int, number: int) -> None:
        known = self._at.setdefault((stream, offset), number)
        if known != number:
            raise self._objection(f"{stream}/0/{offset} was record {known} and is {number}")
        place = self._place.setdefault(number, (stream, offset))
        if place != (stream, offset):
            raise self._objection(f"record {number} waits at {place} and at {stream}/0/{offset}")

    # --- the disk --------------------------------------------------------------------------------------------------

    def wrote(self, path: Path, content: bytes) -> None:
        """Lines went to the log of a stream."""
        stream = path.parts[-3]
        waits = stream.endswith(LATER_SUFFIX)
        if not waits and (stream not in self._checker.durabilities or b'"from":"' not in content):
            return
        for line in content.split(b"\n"):
            if line.startswith(b'{"at":') and line.endswith(b"}"):
                fields = orjson.loads(line)
                if waits:
                    self.number_of(fields, base_stream(stream) or "")
                elif "from" in fields:
                    self._arrives(self.number_of(fields, stream), stream)

    def _arrives(self, number: int, stream: str) -> None:
        due, since = self._due[number]
        if self._latest_wall_since(since) < due - _SLACK:
            raise self._objection(f"record {number} comes {due - self._latest_wall_since(since):.3f} s before its time")
        if number in self._gone and not self._checker.given_up.changing[stream]:
            raise self._objection(f"record {number} comes to {stream}, but waited for another stream of that name")
        if number not in self._gone:
            self._checker.came_again(number)
        self._checker.counts["delayed records come"] += number not in self._arrived
        self._arrived.add(number)

    def check_log(self, stream: str, first: int, lines: list[bytes]) -> None:
        """All that stands in a stream of delayed records."""
        base = base_stream(stream) or ""
        for offset, line in enumerate(lines, first):
            number = self.number_of(orjson.loads(line), base)
            if number not in self.copies and self._checker.line_of(number) != line:
                raise self._objection(f"{stream}/0/{offset} is not what was published: {line!r}")
            self._saw(stream, offset, number)

    def check_receipts(self, stream: str, end: int) -> None:
        """A stream of delayed records was opened, or is looked at: what had a receipt is in it, or was."""
        for number, (where, offset) in self._receipts.items():
            if where == stream and offset >= end and number not in self._gone:
                raise self._objection(f"record {number} had a receipt for {stream}/0/{offset} and is lost: it ends at {end}")
        for place in [place for place in self._at if place[0] == stream and place[1] >= end]:
            self._place.pop(self._at.pop(place), None)

    def expected(self, number: int) -> bytes | None:
        """The line of a delayed record as it is to be in its stream; None where that is not known."""
        line, place = self._checker.line_of(number), self._place.get(number)
        return None if place is None or line is None else b'%s,"from":"%s/0/%d"}\n' % (line[:-2], place[0].encode(), place[1])

    # --- what users do ---------------------------------------------------------------------------------------------

    def waiting_in(self, stream: str) -> list[tuple[int, int]]:
        """Offsets and numbers of records that were known to wait in such a stream."""
        return sorted(
            (offset, number) for (name, offset), number in self._at.items() if name == stream and number not in self._arrived
        )

    def given_up(self, numbers: list[int]) -> None:
        """They need not come."""
        self._excused.update(numbers)

    def trimmed(self, stream: str) -> None:
        """A user had a stream of delayed records trimmed: none that waits there need come."""
        self._excused.update(number for number in self._due if self._checker.stream_of(number) == base_stream(stream))

    def maybe_destroyed(self, base: str) -> None:
        """A stream was to be destroyed, and was not; what waits for it goes first, and may be gone."""
        self._excused.update(self._forget(base))

    def destroyed(self, base: str) -> None:
        """A stream is no more, and what waited for it with it."""
        self._gone.update(self._forget(base))

    def _forget(self, base: str) -> list[int]:
        numbers = [number for number in self._due if self._checker.stream_of(number) == base]
        for number in numbers:
            self._receipts.pop(number, None)
            place = self._place.pop(number, None)
            if place is not None:
                self._at.pop(place, None)
        return numbers

    # --- the end ---------------------------------------------------------------------------------------------------

    def check_end(self, is_known: Callable[[int], bool], may_be_unseen: Callable[[int], bool]) -> None:
        """All that had a receipt has come."""
        for number in [*self._receipts, *self.copies]:
            if number in self._excused or number in self._gone or is_known(number):
                continue
            if number not in self._arrived or not may_be_unseen(number):
                raise self._objection(f"record {number} was to come at {self._due[number]}, and has not")


def is_later_log(path: Path) -> bool:
    """Whether a file is of the log of what waits, among those of the sinks."""
    return path.parent.parent == LAYOUT.sinks and path.parent.name.startswith("later:")

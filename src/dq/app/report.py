"""`Report`: what became of all that was sent to an app's handlers, as the logs have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class ReportLine:
    """One handler and one of its streams, in records.

    Attributes:
        handler, sink, stream: whose.
        sent: stored in the stream since the handler's sink began there.
        handled: done, and acked. dropped: settled by a `Drop`. dead: became dead letters.
        postponed: to be tried again after over a minute: it comes again as a record of its own, which is sent anew.
        passed: settled unseen: another topic, taken out of the stream, expired.
        earlier: settled so long ago that the log does not say any more how: it was written anew since.
        waiting, in_hand, delayed: not settled yet; delayed: to be tried again, or on their way to the dead letters.
        lost: gone without having been settled: trimmed by a bound of the stream, or cut off with the end of a log.
        twice: handled again after they had been handled, since the sink was sought back.
        perhaps_twice: handled after a consumer died with them in hand. Whether that one had done its work, no log knows.
    """

    handler: str
    sink: str
    stream: str
    sent: int
    handled: int
    dropped: int
    dead: int
    postponed: int
    passed: int
    earlier: int
    waiting: int
    in_hand: int
    delayed: int
    lost: int
    twice: int
    perhaps_twice: int

    @property
    def adds_up(self) -> bool:
        """Whether each record that was sent is in one of the other columns."""
        settled = self.handled + self.dropped + self.dead + self.postponed + self.passed + self.earlier
        return self.sent == settled + self.waiting + self.in_hand + self.delayed + self.lost


@dataclass(frozen=True, slots=True)
class Report:
    """What became of all that was sent, by handler and stream. It prints as a table.

    Attributes:
        lines: in the order of the handlers.
    """

    lines: tuple[ReportLine, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing is lost, and all adds up."""
        return all(line.adds_up and not line.lost for line in self.lines)

    def line(self, handler: str, stream: str | None = None) -> ReportLine:
        """The line of a handler, and of one of its streams if it has several. Raises KeyError: there is none."""
        for line in self.lines:
            if line.handler == handler and stream in (None, line.stream):
                return line
        raise KeyError(f"no handler {handler!r} of {stream!r} in this report")

    def __str__(self) -> str:
        names = [field.name for field in fields(ReportLine) if field.name != "sink"]
        rows = [[name.replace("_", " ") for name in names]]
        for line in self.lines:
            values = [getattr(line, name) for name in names]
            rows.append([value if isinstance(value, str) else f"{value:,}" for value in values])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        shown = [
            "  ".join([row[0].ljust(widths[0]), row[1].ljust(widths[1]), *map(str.rjust, row[2:], widths[2:])]) for row in rows
        ]
        bad = [f"{line.handler} of {line.stream} does not add up" for line in self.lines if not line.adds_up]
        lost = sum(line.lost for line in self.lines)
        verdict = f"{lost:,} lost" if lost else "nothing lost"
        return "\n".join([*shown, "; ".join([verdict, *bad])])


Wanted = Mapping[str, tuple[str, Sequence[str]]]
"""By handler: its sink, and its streams."""


@runtime_checkable
class Reports(Protocol):
    """An engine that can tell what became of what was sent."""

    def report(self, wanted: Wanted) -> Report:
        """Reads the logs."""

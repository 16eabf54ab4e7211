"""What of the records that were read a sink gets: what its filter lets through, and of batches for one sink only its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from itertools import repeat
from typing import Any, Self

import orjson

from dq.broker.bounded import bounded_search
from dq.core.leases import Past
from dq.core.matching import Matcher, Taken
from dq.core.ranges import Range, RangeSet
from dq.log.format import count_lines
from dq.log.storage import Slice
from dq.model.about import About
from dq.model.settings import SinkSettings


@dataclass(slots=True)
class Sifted:
    """The beginning of a slice, sifted.

    Attributes:
        count: records it is about, matching or not.
        matches: how many of them match.
        size: bytes of those.
        parts: their lines.
        without: the others, as ranges of offsets.
        publishers: as in the slice, of all records.
        burned: what records have burned before they came to this sink.
    """

    count: int
    matches: int
    size: int
    parts: list[memoryview]
    without: list[Range]
    publishers: list[tuple[int, str]]
    burned: list[Past]

    def take(self, lines: memoryview, count: int) -> None:
        """The next `count` records match."""
        self.parts.append(lines)
        self.size += len(lines)
        self.count += count
        self.matches += count

    def leave(self, first: int, count: int) -> None:
        """The next `count` records, from offset `first`, do not match."""
        if self.without and self.without[-1][1] == first:
            self.without[-1] = (self.without[-1][0], first + count)
        else:
            self.without.append((first, first + count))
        self.count += count

    def note_burned(self, first: int, stop: int, about: Mapping[str, Any]) -> None:
        """What matches between two offsets has burned attempts, as its batch says. What does not match is not remembered."""
        matching = RangeSet(first, stop)
        for part in self.without:
            matching.discard(*part)
        self.burned += [(begin, end - begin, about["attempts"], about.get("error", "")) for begin, end in matching]


class Sieve:
    """Takes or leaves whole batches by what their headers say, and opens only those that have some of both.

    Args:
        sink: whose it is.
        matcher: what the sink wants; None for all.

    Attributes:
        filters: whether it wants less than all. Then only what a header says of its whole batch is to be looked at.
    """

    def __init__(self, sink: str, matcher: Matcher | None) -> None:
        self._sink, self.filters = sink, matcher is not None
        self._matcher = matcher if matcher is not None else Matcher(None, None, bounded_search)

    @classmethod
    def of(cls, sink: str, settings: SinkSettings) -> Self:
        """The sieve of a sink."""
        if settings.topic is None and settings.pattern is None:
            return cls(sink, None)
        return cls(sink, Matcher(settings.topic, settings.pattern, bounded_search))

    def sift(self, found: Slice, matches_max: int) -> Sifted:
        """Goes over a slice until `matches_max` records match, or to its end. Raises InvalidSetting as `bounded_search`."""
        sifted = Sifted(0, 0, 0, [], [], found.publishers, [])
        for lines, topics, about in zip(found.parts, found.topics, found.abouts or repeat(None), strict=False):
            first = found.first + sifted.count
            verdict = self._verdict(topics, about)
            count = count_lines(bytes(lines))
            if verdict is Taken.NONE:
                sifted.leave(first, count)
            elif verdict is Taken.ALL and sifted.matches + count <= matches_max:
                sifted.take(lines, count)
            else:
                self._sift_lines(sifted, found.first, lines, verdict, matches_max)
            if about is not None and about.get("attempts") and verdict is not Taken.NONE:
                sifted.note_burned(first, found.first + sifted.count, about)
            if sifted.matches == matches_max:
                break
        return sifted

    def _verdict(self, topics: tuple[str, ...] | None, about: About) -> Taken:
        if about is not None and about.get("for", self._sink) != self._sink:
            return Taken.NONE
        return self._matcher.of_batch(topics) if self.filters else Taken.ALL

    def _sift_lines(self, sifted: Sifted, first: int, lines: memoryview, verdict: Taken, matches_max: int) -> None:
        """Goes over single records; neighbours that match become one part."""
        start = place = run = 0
        for line in BytesIO(lines):
            if verdict is Taken.ALL or self._wants(line):
                run += 1
            else:
                if run:
                    sifted.take(lines[start:place], run)
                sifted.leave(first + sifted.count, 1)
                start, run = place + len(line), 0
            place += len(line)
            if sifted.matches + run == matches_max:
                break
        if run:
            sifted.take(lines[start:place], run)

    def _wants(self, line: bytes) -> bool:
        """Whether a record matches. One that is no JSON does: its consumer dead-letters it."""
        try:
            fields = orjson.loads(line)
        except orjson.JSONDecodeError:
            return True
        topic = fields.get("topic") if isinstance(fields, dict) else None
        return self._matcher.takes(topic if isinstance(topic, str) else None)

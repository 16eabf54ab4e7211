"""Where a reader or a new sink begins: what users may say, the one text it is kept as, and the offset that is meant by it.

===========================  =============================  ======================================================
a user says                  kept as                        begins
===========================  =============================  ======================================================
`"oldest"`                   `oldest`                       with the first record that is kept
`"newest"`                   `newest`                       after the last record there is now
an id, `"orders/0/15"`       `orders/0/15`                  after that record; for that one bucket
a position                   `orders=16,7;audit=3`          with these offsets, by stream and bucket
an aware datetime            `2026-11-25T18:00:00+00:00`    with the first record published then or later
a timedelta                  as the instant it means        so long ago
===========================  =============================  ======================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from dq.errors import InvalidName, InvalidSetting
from dq.model.names import check_name
from dq.model.shown import shown

_OFFSET = r"0|[1-9][0-9]{0,18}"
_ID = re.compile(rf"([^/=;,]+)/({_OFFSET})/({_OFFSET})")
_OFFSETS = re.compile(rf"(?:{_OFFSET})(?:,(?:{_OFFSET}))*")


@dataclass(frozen=True, slots=True)
class Start:
    """A place to begin, understood.

    Attributes:
        text: as it is kept.
        at: the instant, in seconds since 1970; None where none was named.
        after: (stream, bucket, offset) of the record to begin after; None where none was named.
        offsets: by stream, the offset of each bucket; empty where no position was named.
    """

    text: str
    at: float | None = None
    after: tuple[str, int, int] | None = None
    offsets: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def check_over(self, streams: Mapping[str, Sequence[int]]) -> None:
        """Checks that it can be meant for these buckets of these streams.

        Raises:
            InvalidSetting: an id names a place in one bucket, and there are others; or a position is of something else.
        """
        if self.after is not None:
            stream, bucket, _ = self.after
            if {name: list(buckets) for name, buckets in streams.items()} != {stream: [bucket]}:
                raise InvalidSetting(
                    f"start={self.text!r} is a place in bucket {bucket} of stream {stream!r} alone: ask for that one bucket, "
                    "or start at a time or at a position"
                )
        for name, buckets in streams.items() if self.offsets else ():
            if name not in self.offsets or max(buckets, default=0) >= len(self.offsets[name]):
                raise InvalidSetting(f"the position {self.text!r} says nothing of stream {name!r}, bucket {max(buckets)}")

    def offset(self, stream: str, bucket: int, first: int, end: int, at_time: Callable[[float], int]) -> int:
        """The offset meant in one bucket.

        Args:
            first, end: the first that is kept, and the first that is not committed.
            at_time: the first offset published at or after an instant.
        """
        if self.at is not None:
            return at_time(self.at)
        if self.after is not None:
            return self.after[2] + 1
        if self.offsets:
            return self.offsets[stream][bucket]
        return first if self.text == "oldest" else end


def parse_start(text: str) -> Start:
    """Understands a text.

    Raises:
        InvalidSetting: it is none of those above.
    """
    if text in ("oldest", "newest"):
        return Start(text)
    try:
        if "=" in text:
            return Start(text, offsets=parse_position(text))
        if (place := _ID.fullmatch(text)) is not None:
            return Start(text, after=(check_name("stream", place[1]), int(place[2]), int(place[3])))
        at = datetime.fromisoformat(text)
    except (InvalidName, ValueError):
        raise _refused(text) from None
    if at.tzinfo is None:
        raise InvalidSetting(f"start={text!r} is an instant without its time zone: add one, as in {text}+00:00")
    return Start(text, at=at.timestamp())


def start_of(value: object, now: float) -> Start:
    """What a user said, understood.

    Args:
        value: see above.
        now: wall time in seconds since 1970, for a timedelta.

    Raises:
        InvalidSetting: it is none of those above.
    """
    if isinstance(value, timedelta):
        if value < timedelta():
            raise InvalidSetting(f"start={value!r} lies in the future: a timedelta says how long ago")
        value = datetime.fromtimestamp(now, UTC) - value
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise InvalidSetting(f"start={value!r} has no time zone: use datetime.now(UTC) or .astimezone()")
        value = value.astimezone(UTC).isoformat()
    if not isinstance(value, str):
        raise _refused(value)
    return parse_start(value)


def position_text(offsets: Mapping[str, Sequence[int]]) -> str:
    """A position as a text that `start=` takes: by stream, the next offset of each bucket."""
    return ";".join(f"{stream}={','.join(map(str, each))}" for stream, each in sorted(offsets.items()))


def parse_position(text: str) -> dict[str, tuple[int, ...]]:
    """What `position_text` wrote. Raises ValueError or InvalidName."""
    offsets: dict[str, tuple[int, ...]] = {}
    for part in text.split(";"):
        stream, _, each = part.partition("=")
        if _OFFSETS.fullmatch(each) is None or stream in offsets:
            raise ValueError(f"{part!r} is no part of a position")
        offsets[check_name("stream", stream)] = tuple(map(int, each.split(",")))
    return offsets


def _refused(value: object) -> InvalidSetting:
    return InvalidSetting(
        f"start must be 'oldest', 'newest', the id of a record (stream/bucket/offset), a position, an aware datetime "
        f"or a timedelta ago, not {shown(value)}"
    )

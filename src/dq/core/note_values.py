"""The values of a note, read with suspicion: a checksum can be right over nonsense.

What is not as `notes.py` draws it raises a `KeyError`, a `TypeError` or a `ValueError`; `replay` says of which note.
"""

from __future__ import annotations

from typing import Any

from dq.core.ranges import Range, RangeSet
from dq.model.shown import outlined

Note = dict[str, Any]
COUNT_MAX = 1 << 62
"""Of an offset or a number: with it sums still fit into the 64 bits of a snapshot."""


def demand(met: bool, otherwise: str) -> None:
    if not met:
        raise ValueError(otherwise)


def as_count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= COUNT_MAX:
        raise ValueError(f"{outlined(value)} is no offset and no number")
    return value


def as_text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"{outlined(value)} is no text")
    return value


def as_seconds(value: Any) -> float:
    if type(value) not in (int, float) or not value >= 0:
        raise ValueError(f"{outlined(value)} is no time")
    return value  # type: ignore[no-any-return]


def as_flag(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError(f"{outlined(value)} is neither true nor false")
    return value


def as_ranges(values: Any) -> list[Range]:
    """Two counts each, the first not above the second."""
    ranges = [(as_count(first), as_count(stop)) for first, stop in values]
    if any(first > stop for first, stop in ranges):
        raise ValueError(f"{outlined(values)} are no ranges")
    return ranges


def count_of(note: Note, key: str) -> int:
    return as_count(note[key])


def text_of(note: Note, key: str) -> str:
    return as_text(note[key])


def flag_of(note: Note, key: str) -> bool:
    return as_flag(note.get(key, False))


def ranges_of(note: Note, key: str = "ranges") -> list[Range]:
    return as_ranges(note[key])


def ranges_within(ranges: list[Range], first: int, stop: int) -> RangeSet:
    if not all(first <= low and high <= stop for low, high in ranges):
        raise ValueError(f"{outlined(ranges)} are not all in {first} to {stop}")
    return RangeSet.of(ranges)


def check_offsets(offsets: list[int], first: int, stop: int) -> None:
    ranges_within([(offset, offset + 1) for offset in offsets], first, stop)

"""Times and sizes as people write them, with their units: `90s`, `64MiB`."""

from __future__ import annotations

import re
from typing import Final

TIMES: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
"""Seconds of each unit of time."""
SIZES: Final = {
    "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
}  # fmt: skip
"""Bytes of each unit of size."""
_MEASURED: Final = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,9})?) ?([A-Za-z]{1,3})")
_LARGEST_TIMES: Final = ("w", "d", "h", "m", "s")
_LARGEST_SIZES: Final = ("TiB", "GiB", "MiB", "KiB")


def time_of(text: str) -> float | None:
    """Seconds; None where the text is no number with a unit of time."""
    found = _MEASURED.fullmatch(text)
    return None if found is None or found[2] not in TIMES else float(found[1]) * TIMES[found[2]]


def size_of(text: str) -> int | None:
    """Bytes, whole ones; None where the text is no number with a unit of size."""
    found = _MEASURED.fullmatch(text)
    if found is None or found[2] not in SIZES:
        return None
    return int(found[1]) * SIZES[found[2]] if found[1].isdigit() else round(float(found[1]) * SIZES[found[2]])


def time_text(seconds: float) -> str:
    """As `time_of` reads it, in the largest unit of which it is a whole number."""
    for unit in _LARGEST_TIMES if seconds >= 1 else ("ms",):
        count = seconds / TIMES[unit]
        if count >= 1 and count == round(count):
            return f"{count:.0f}{unit}"
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"


def size_text(count: int) -> str:
    """As `size_of` reads it, in the largest unit of which it is a whole number."""
    for unit in _LARGEST_SIZES:
        if count and count % SIZES[unit] == 0:
            return f"{count // SIZES[unit]}{unit}"
    return f"{count}B"

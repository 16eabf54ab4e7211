"""A value that came from outside, as a message can show it: on one line, clipped, and whatever its depth."""

from __future__ import annotations

from reprlib import Repr

CHARS_MAX = 500

_REPR = Repr()
_REPR.maxlevel, _REPR.maxdict, _REPR.maxlist, _REPR.maxstring, _REPR.maxlong = 3, 16, 6, 100, 40


def shown(value: object) -> str:
    """As `repr`, which is as long as its value, and raises RecursionError for lists in lists a thousand levels deep."""
    return _REPR.repr(value)[:CHARS_MAX]

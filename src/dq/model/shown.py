"""A value that came from outside, as a message can show it: on one line, clipped, and whatever its depth."""

from __future__ import annotations

import re
from reprlib import Repr
from typing import Final

CHARS_MAX = 500

_REPR = Repr()
_REPR.maxlevel, _REPR.maxdict, _REPR.maxlist, _REPR.maxstring, _REPR.maxlong = 3, 16, 6, 100, 40
# Control characters of ASCII and of Latin-1, and the marks that turn the direction of text or hide it.
_STEERING: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
# Of a line or a note of a log: what is the user's, whatever its type.
_USERS: Final = frozenset({"payload", "base64", "key", "headers", "name", "once", "error", "reason", "errors", "note"})
_FIELDS_MAX: Final = 16


def shown(value: object) -> str:
    """As `repr`, which is as long as its value, and raises RecursionError for lists in lists a thousand levels deep."""
    return _REPR.repr(value)[:CHARS_MAX]


class _Hidden:
    """Stands for a value that is not quoted."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __repr__(self) -> str:
        return self._what


def outlined(value: object) -> str:
    """As `shown`, for what may end in an operator's log: of numbers and lists what they are, of texts how long they are."""
    if isinstance(value, dict):
        parts = list(value.items())[:_FIELDS_MAX]
        return shown({name: _Hidden("…") if name in _USERS else _outline(part, _REPR.maxlevel) for name, part in parts})
    return shown(_outline(value, _REPR.maxlevel))


def _outline(value: object, levels: int) -> object:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return _Hidden(f"<text of {len(value)}>")
    if isinstance(value, (list, tuple)):
        # What lies deeper is not shown.
        return [_outline(part, levels - 1) for part in value[: _REPR.maxlist + 1]] if levels else value
    return _Hidden(f"<dict of {len(value)}>" if isinstance(value, dict) else f"<{type(value).__name__}>")


def safe(text: object) -> str:
    """Text that came from outside as it may go to a terminal: what could steer it is written as an escape."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", str(text))  # as JSON escapes it too


def one_line(text: object) -> str:
    """As `safe`, on one line."""
    return safe(text).replace("\n", "\\n").replace("\t", "\\t")

"""What may be put into an embedded queue, looked at before anything is written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

from dq.errors import InvalidPayload, InvalidSetting

BytesLike = bytes | bytearray | memoryview
_BYTES = {bytes}


def checked_items(items: Iterable[BytesLike]) -> list[bytes]:
    """The items as bytes, in a list. Raises InvalidPayload (a TypeError) for anything else."""
    if type(items) is not list:
        if isinstance(items, (str, bytes, bytearray, memoryview)):
            _refuse(items, "hand in a list of items")
        try:
            items = list(items)
        except TypeError:
            _refuse(items, "hand in a list of items")
    if len(items) == 1 and type(items[0]) is bytes:
        return items  # type: ignore[return-value]
    if items and set(map(type, items)) != _BYTES:
        return [item if type(item) is bytes else _as_bytes(item) for item in items]
    return items  # type: ignore[return-value]


def _as_bytes(item: object) -> bytes:
    if not isinstance(item, (bytes, bytearray, memoryview)):
        _refuse(item, "items are bytes, bytearray or memoryview: encode it first")
    return bytes(item)


def _refuse(found: object, advice: str) -> NoReturn:
    raise InvalidPayload(f"a {type(found).__name__} cannot be put into this queue: {advice}")


def checked_count(name: str, count: int, least: int = 0) -> int:
    """A number of items. Raises InvalidSetting."""
    if type(count) is not int or count < least:
        raise InvalidSetting(f"{name} is a whole number from {least}, not {count!r}")
    return count

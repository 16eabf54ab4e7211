"""A set of offsets that fills up from below, one bit each: a million in any order take 125 KB."""

from __future__ import annotations

import base64
from collections.abc import Iterable

_SLACK = 4_096


class OffsetBits:
    """Offsets that are settled.

    Attributes:
        floor: all below are in it.
        count: how many are.
    """

    __slots__ = ("_base", "_bits", "count", "floor")

    def __init__(self, floor: int = 0) -> None:
        self.floor = self.count = floor
        self._base = floor & ~7
        self._bits = bytearray()

    def __contains__(self, offset: int) -> bool:
        place = offset - self._base
        return offset < self.floor or (place >> 3 < len(self._bits) and bool(self._bits[place >> 3] & (1 << (place & 7))))

    def add_all(self, offsets: Iterable[int]) -> int:
        """Adds offsets; returns how many were new."""
        new = 0
        for offset in offsets:
            if offset in self:
                continue
            new += 1
            place = offset - self._base
            if place >> 3 >= len(self._bits):
                self._bits.extend(bytes((place >> 3) + 1 - len(self._bits)))
            self._bits[place >> 3] |= 1 << (place & 7)
        self.count += new
        self._rise()
        return new

    @property
    def stop(self) -> int:
        """Beyond the last that is in it."""
        return max(self.floor, self._base + int.from_bytes(self._bits, "little").bit_length())

    def cut(self, end: int) -> None:
        """Takes out all from `end` on."""
        kept = [offset for offset in range(self.floor, min(end, self._base + 8 * len(self._bits))) if offset in self]
        self.floor = self.count = min(self.floor, end)
        self._base, self._bits = self.floor & ~7, bytearray()
        self.add_all(kept)

    def _rise(self) -> None:
        bits, place = self._bits, self.floor - self._base
        while place >> 3 < len(bits):
            byte = bits[place >> 3]
            if not place & 7 and byte == 0xFF:
                place += 8
            elif byte & (1 << (place & 7)):
                place += 1
            else:
                break
        self.floor = self._base + place
        whole = place >> 3
        if whole >= _SLACK or whole >= len(bits):
            del bits[:whole]
            self._base += whole << 3

    def encode(self) -> str:
        """What is in it from the byte of the floor on, as text."""
        return base64.b64encode(self._bits[(self.floor - self._base) >> 3 :]).decode("ascii")

    @classmethod
    def decode(cls, floor: int, text: str) -> OffsetBits:
        """Raises ValueError where it is not what `encode` gave."""
        made = cls(floor)
        made._bits = bytearray(base64.b64decode(text, validate=True))
        made.count = made._base + int.from_bytes(made._bits, "little").bit_count()
        if made._bits:
            below = made._bits[0] & ((1 << (floor & 7)) - 1)
            made.count += (floor & 7) - below.bit_count()
            made._bits[0] |= (1 << (floor & 7)) - 1
        else:
            made.count = floor
        made._rise()
        return made

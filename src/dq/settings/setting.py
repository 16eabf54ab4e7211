"""`Setting`: the declaration of one setting, by which what is given for it is read, checked and shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from dq.errors import InvalidSetting
from dq.model.shown import shown
from dq.settings.units import SIZES, TIMES, size_of, size_text, time_of, time_text

Value = int | float | bool | str | None
NONE: Final = "none"
"""How it is written that an optional setting has no value."""
_DIGITS_MAX: Final = 20
"""Of a count in a text: more digits are over every limit."""
_FLAGS: Final[Mapping[str, bool]] = {"true": True, "false": False}


class Part(StrEnum):
    """Whose settings they are, as the page and `dq config` list them."""

    STREAM = "new streams"
    SINK = "new sinks"
    CLIENT = "clients"
    BROKER = "the broker"
    COMMAND = "the command line"


AT_START: Final = frozenset({Part.STREAM, Part.SINK, Part.BROKER})
"""What a broker reads when it starts, and no more after that."""


class Kind(StrEnum):
    """What the value of a setting is."""

    COUNT = "a whole number"
    TIME = "a time"
    SIZE = "a size"
    CHOICE = "one of"
    FLAG = "true or false"


_AS_GOOD_AS_NO_LIMIT: Final = {Kind.COUNT: 10.0**9, Kind.TIME: 10.0**7, Kind.SIZE: 10.0**15}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting.

    Attributes:
        name: its key in `dq.toml`.
        part: whose it is.
        kind: what its value is; times are in seconds, sizes in bytes.
        default: the value where none is given; None: an optional one, "none".
        why: why that is its default, and what another one costs.
        low, high: the least and the greatest number.
        choices: of a CHOICE.
    """

    name: str
    part: Part
    kind: Kind
    default: Value
    why: str
    low: float = 0
    high: float = 0
    choices: tuple[str, ...] = ()

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"DQ_{self.name.upper()}"

    @property
    def takes(self) -> str:
        """What may be given, for people."""
        if self.kind is Kind.CHOICE:
            said = ", ".join(self.choices)
        elif self.kind is Kind.FLAG:
            said = str(self.kind)
        else:
            low = f" from {self._number(self.low)}" if self.low else ""
            high = f" to {self._number(self.high)}" if self.high < _AS_GOOD_AS_NO_LIMIT[self.kind] else ""
            said = f"{self.kind}{low}{high}"
        return f"{said}, or {NONE}" if self.default is None else said

    def _number(self, number: float) -> str:
        return self.text_of(number if self.kind is Kind.TIME else int(number))

    def _outside(self, given: object) -> InvalidSetting:
        limits = f"from {self._number(self.low)} to {self._number(self.high)}"
        return InvalidSetting(f"{self.name} must be {self.kind} {limits}, not {shown(given)}")

    def text_of(self, value: Value) -> str:
        """A value as it is given, in a file without the quotes."""
        if value is None:
            return NONE
        if isinstance(value, bool):
            return "true" if value else "false"
        if self.kind is Kind.TIME and not isinstance(value, str):
            return time_text(value)
        return size_text(value) if self.kind is Kind.SIZE and isinstance(value, int) else str(value)

    def of_text(self, text: str) -> Value:
        """The value in a variable or a flag.

        Raises:
            InvalidSetting: it is none; the message names the setting and what it takes.
        """
        if self.kind is Kind.FLAG:
            return self.of_file(_FLAGS.get(text.lower(), text))
        if self.kind is Kind.COUNT and text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX:
            return self.of_file(int(text))
        return self.of_file(text)

    def of_file(self, given: object) -> Value:
        """The value of a key of the file.

        Raises:
            InvalidSetting: it is none; the message names the setting and what it takes.
        """
        if given == NONE and isinstance(given, str) and self.default is None:
            return None
        if self.kind in (Kind.TIME, Kind.SIZE):
            return self._measured(given)
        if self.kind is Kind.COUNT:
            if isinstance(given, bool) or not isinstance(given, int) or not self.low <= given <= self.high:
                raise self._outside(given)
            return given
        if isinstance(given, str) and self.kind is Kind.CHOICE:
            given = given.lower()  # INFO and info are one level
        kind = bool if self.kind is Kind.FLAG else str
        if not isinstance(given, kind) or (kind is str and given not in self.choices):
            one_of = "one of " if self.kind is Kind.CHOICE else ""
            raise InvalidSetting(f"{self.name} must be {one_of}{self.takes}, not {shown(given)}")
        return given

    def _measured(self, given: object) -> Value:
        """A time or a size, from a text with its unit."""
        of, units, such = (time_of, TIMES, "30s") if self.kind is Kind.TIME else (size_of, SIZES, "64MiB")
        value = of(given) if isinstance(given, str) else None
        if value is None:
            raise InvalidSetting(
                f'{self.name} is {self.kind}, written with its unit as "{such}", not {shown(given)}; '
                f"units are {', '.join(units)}"
            )
        if not self.low <= value <= self.high:
            raise self._outside(given)
        return value

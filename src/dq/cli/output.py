"""What commands print: for people on a terminal, as plain lines in a pipe, or as JSON; and nothing that steers a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import click
import orjson

from dq.model.shown import one_line, safe

__all__ = [
    "json_line", "line", "number", "one_line", "outcome", "pairs", "remark", "safe", "seconds", "size", "styled", "table",
]  # fmt: skip


COLOR: Final = "dq.color"
CONFIRM: Final = "dq.confirm"
"""Under which the settings of this run stand in click's context."""


def setting_of(name: str, default: Any) -> Any:
    """What the settings say, where the command has read them."""
    context = click.get_current_context(silent=True)
    return default if context is None else context.meta.get(name, default)


def styled() -> bool:
    """Whether standard output wants colours: a terminal, or it was said so; see https://no-color.org."""
    wish = setting_of(COLOR, "auto")
    if os.environ.get("NO_COLOR") or wish == "never":
        return False
    return wish == "always" or (sys.stdout.isatty() and os.environ.get("TERM") != "dumb")


def json_line(value: Any) -> None:
    """Prints one JSON value on a line."""
    sys.stdout.write(safe(orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()) + "\n")


def outcome(done: Mapping[str, Any], text: str = "", *, as_json: bool) -> None:
    """Says what a command has changed: as JSON, or in words; without words nothing, as commands do."""
    if as_json:
        json_line(done)
    elif text:
        line(text)


def line(text: str = "") -> None:
    """Prints one line; what comes from records or users has to be made `safe` by its caller."""
    sys.stdout.write(text + "\n")


def remark(text: str) -> None:
    """Says something beside the output, on standard error."""
    sys.stderr.write(f"dq: {safe(text)}\n")


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Iterable[str] = ()) -> None:
    """Prints rows under their columns: with colours on a terminal, else columns that `awk` can read.

    Args:
        right: the columns whose cells stand at the right, as numbers do.
    """
    cells = [["-" if cell is None or cell == "" else one_line(cell) for cell in row] for row in rows]
    if styled():
        _rich_table(columns, cells, set(right))
        return
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    to_right = [name in set(right) for name in columns]
    for row in ([name.upper() for name in columns], *cells):
        padded = [
            cell.rjust(width) if at_right else cell.ljust(width)
            for cell, width, at_right in zip(row, widths, to_right, strict=True)
        ]
        line("  ".join(padded).rstrip())


def _rich_table(columns: Sequence[str], cells: Sequence[Sequence[str]], right: set[str]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for name in columns:
        shown.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in cells:
        shown.add_row(*map(Text, row))
    Console(force_terminal=True).print(shown)


def pairs(values: Mapping[str, Any]) -> None:
    """Prints names and values, a line each."""
    width = max(map(len, values), default=0)
    for name, value in values.items():
        line(f"{name:{width}}  {'-' if value is None or value == '' else one_line(value)}")


def number(value: float) -> str:
    """A count with its thousands apart."""
    return f"{value:,}"


def size(count: float) -> str:
    """Bytes, for people: `1.5 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def seconds(value: float | None) -> str:
    """A time span, for people: `1.5 s`, `3 min 20 s`, `2 h 5 min`."""
    if value is None:
        return "-"
    if value < 1:
        return f"{value * 1000:.0f} ms"
    if value < 60:
        return f"{value:.1f} s"
    minutes, left = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {left} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"

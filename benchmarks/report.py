"""The table, the JSON, and what the machine is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from measure import Row


def number(value: float) -> str:
    """With three figures that matter, and thousands apart."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def note(key: str, value: Any) -> str:
    """A note, short."""
    return f"{key} {number(value) if isinstance(value, int | float) and not isinstance(value, bool) else value}"


def verdict(row: Row) -> str:
    """Met, or missed by how much."""
    return "[green]met" if row.met else f"[red]missed by {row.missed_by:.0%}"


def show(rows: Sequence[Row], failures: dict[str, str], about: dict[str, Any], runs: int, scale: float) -> None:
    """Prints the table."""
    console = Console(width=None if Console().is_terminal else 160)
    table = Table(
        box=box.SIMPLE_HEAD, title=f"medians of {runs} alternating runs{'' if scale == 1 else f', scaled to {scale:g}'}"
    )
    for column in ("figure", "what"):
        table.add_column(column)
    for column in ("measured", "beside", "ratio", "target"):
        table.add_column(column, justify="right")
    table.add_column("")
    for row in rows:
        beside = "" if row.beside is None else f"{number(row.beside)} ({row.reference})"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        target = f"{row.sense} {number(row.target)}{' x' if row.ratio is not None else f' {row.unit}'}"
        table.add_row(row.name, row.what, f"{number(row.measured)} {row.unit}", beside, ratio, target, verdict(row))
    for name, error in failures.items():
        table.add_row(name, f"[red]failed: {error.strip().splitlines()[-1]}")
    console.print(table)
    for row in rows:
        if row.notes:
            console.print(f"{row.name} ({row.what}): " + ", ".join(note(*pair) for pair in row.notes.items()), highlight=False)
    console.print("machine: " + ", ".join(note(*pair) for pair in about.items()), highlight=False)

"""How `dq top` looks on a terminal: the busiest first, and no more than fits."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Mapping, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dq.cli.output import one_line, seconds, size, styled
from dq.cli.top_rates import View

_BAR = " ▏▎▍▌▋▊▉█"
_BAR_CELLS = 8
_HEAD_LINES = 4


def bar(value: float, most: float) -> str:
    """A bar of eight cells, in eighths of one."""
    eighths = round(value / most * _BAR_CELLS * 8) if most > 0 else 0
    full, part = divmod(min(eighths, _BAR_CELLS * 8), 8)
    return ("█" * full + (_BAR[part] if part else "")).ljust(_BAR_CELLS)


def rate(value: float) -> str:
    """Records a second, for people: `1,234`, `0.4`."""
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.1f}"


def quantiles(found: Mapping[str, float] | None) -> str:
    """`p50 0.8 ms, p95 1.2 ms, p99 5 ms`, or a dash."""
    return "-" if found is None else ", ".join(f"{name} {brief(value)}" for name, value in found.items())


def brief(value: float | None) -> str:
    """A time span in few signs: `0.82 ms`, `14 ms`, `3.1 s`, and longer ones as anywhere."""
    if value is None:
        return "-"
    return f"{value * 1000:.2g} ms" if value < 0.01 else seconds(value)


class Screen:
    """The terminal, as long as it is shown there. A context manager."""

    def __init__(self) -> None:
        self._console = Console(no_color=not styled())
        self._live = Live(console=self._console, screen=True, auto_refresh=False)

    def show(self, view: View) -> None:
        """One look."""
        self._live.update(layout(view, self._console.size.height), refresh=True)

    def __enter__(self) -> Screen:
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)


def layout(view: View, height: int) -> RenderableType:
    """What a view looks like on so many lines."""
    clock = time.strftime("%H:%M:%S", time.localtime(view.at))
    head = Text(no_wrap=True, overflow="ellipsis")
    head.append("dq top", style="bold")
    head.append(f"  {one_line(view.root)}  {clock}  q ends it\n", style="dim")
    head.append(f"in {rate(view.rate_in)}/s  out {rate(view.rate_out)}/s  commits {rate(view.commits)}/s\n")
    head.append(f"stored {quantiles(view.store)}\ncommit {quantiles(view.commit)}")
    parts: list[RenderableType] = [head]
    if view.closed:
        parts += [Text(f"closed: {one_line(name)}: {one_line(why)}", style="red") for name, why in view.closed.items()][:3]
    room = height - _HEAD_LINES - (len(parts) - 1)
    tables = [each for each in (_sinks(view), _consumers(view), _streams(view)) if each[1]]
    for index, (make, rows) in enumerate(tables):
        share = room // (len(tables) - index)
        shown = max(min(len(rows), share - 3), 1)  # a heading, its line, and what is not shown
        parts.append(make(rows[:shown]))
        room -= shown + 2
        if shown < len(rows):
            parts.append(Text(f"  and {len(rows) - shown:,} more", style="dim"))
            room -= 1
    return Group(*parts)


Rows = list[tuple[str, ...]]
Made = tuple[Callable[[Rows], Table], Rows]


def _table(columns: Sequence[str], left: int) -> Callable[[Rows], Table]:
    """A table of which the first `left` columns are names, and so stand at the left."""

    def make(rows: Rows) -> Table:
        table = Table(box=None, header_style="bold reverse", expand=True, pad_edge=False, padding=(0, 1, 0, 0))
        for index, name in enumerate(columns):
            name_of_it, of_bar = index < left, name == ""
            table.add_column(
                name, justify="left" if name_of_it or of_bar else "right", no_wrap=True, overflow="ellipsis",
                ratio=1 if index == 0 else None, style="cyan" if of_bar else None,
            )  # fmt: skip
        for row in rows:
            table.add_row(*map(Text, row))
        return table

    return make


def _sinks(view: View) -> Made:
    rows = sorted(view.sinks, key=lambda row: (-row.rate_out, -row.waiting, row.name))
    most = max((row.waiting for row in rows), default=0)
    return _table(("SINK", "OUT/S", "WAITING", "", "OLDEST", "HAND", "RETRY/S", "DEAD", "P95"), 1), [
        (
            one_line(row.name) + (" (paused)" if row.paused else ""), rate(row.rate_out), f"{row.waiting:,}",
            bar(row.waiting, most), brief(row.oldest), f"{row.in_hand:,}", rate(row.retries), f"{row.dead:,}",
            brief(row.hand["p95"] if row.hand else None),
        )
        for row in rows
    ]  # fmt: skip


def _consumers(view: View) -> Made:
    rows = sorted(view.consumers, key=lambda row: (-row.rate, -row.in_hand, row.name))
    most = max((row.rate for row in rows), default=0.0)
    return _table(("CONSUMER", "SINK", "PID", "OUT/S", "", "HAND"), 2), [
        (
            one_line(row.name) + (" (silent)" if row.silent else ""), one_line(row.sink), str(row.pid or "-"),
            rate(row.rate), bar(row.rate, most), f"{row.in_hand:,}",
        )
        for row in rows
    ]  # fmt: skip


def _streams(view: View) -> Made:
    rows = sorted(view.streams, key=lambda row: (-row.rate_in, -row.records, row.name))
    most = max((row.rate_in for row in rows), default=0.0)
    return _table(("STREAM", "IN/S", "", "RECORDS", "SIZE", "DELAYED"), 1), [
        (one_line(row.name), rate(row.rate_in), bar(row.rate_in, most), f"{row.records:,}", size(row.bytes), f"{row.delayed:,}")
        for row in rows
    ]


@contextlib.contextmanager
def keys() -> Iterator[Callable[[float], bool]]:
    """Gives a function that waits so many seconds and says whether q was pressed meanwhile."""
    if not sys.stdin.isatty():
        yield _asleep
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)

    def waited(span: float) -> bool:
        until = time.monotonic() + span
        while (left := until - time.monotonic()) > 0:
            if select.select([fd], [], [], left)[0]:
                pressed = os.read(fd, 64)
                if not pressed or pressed[:1] in b"qQ":
                    return True
        return False

    try:
        yield waited
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _asleep(span: float) -> bool:
    time.sleep(span)
    return False

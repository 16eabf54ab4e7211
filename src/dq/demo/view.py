"""How a run is watched: a live table on a terminal, a line a second without one, nothing with `--json`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from dq.demo.progress import Progress, View

WIDTH = 80
_PLAIN_SECONDS = 1.0
_REFRESH_A_SECOND = 8


class Silent:
    """Shows nothing."""

    def begin(self, seconds: float, phase: str) -> None:
        """Nothing."""

    def show(self, progress: Progress) -> None:
        """Nothing."""

    def tell(self, seconds: float, text: str) -> None:
        """Nothing."""


class Plain:
    """A line a second, and one for whatever happens."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next = 0.0
        self._last = ""

    def begin(self, seconds: float, phase: str) -> None:
        """A line at once."""
        self._print(seconds, phase)

    def show(self, progress: Progress) -> None:
        """A line, if a second has passed and something has changed."""
        line = line_of(progress)
        if progress.seconds >= self._next and line != self._last:
            self._next, self._last = progress.seconds + _PLAIN_SECONDS, line
            self._print(progress.seconds, line)

    def tell(self, seconds: float, text: str) -> None:
        """A line at once."""
        self._print(seconds, text)

    def _print(self, seconds: float, text: str) -> None:
        self._console.print(f"{seconds:5.1f} s  {text}", markup=False, soft_wrap=True)
        self._console.file.flush()


class Drawn:
    """A table that is drawn anew in place; what happened scrolls by above it."""

    def __init__(self, console: Console, live: Live) -> None:
        self._console, self._live = console, live

    def begin(self, seconds: float, phase: str) -> None:
        """A line in the place of the table."""
        self._live.update(Group(Text(), _head(seconds, phase)))

    def show(self, progress: Progress) -> None:
        """Draws it."""
        shown: list[RenderableType] = [Text(), _head(progress.seconds, progress.phase), Text()]
        if progress.published:
            shown += [_figures(progress), Text()]
        self._live.update(Group(*shown, _consumers(progress)))

    def tell(self, seconds: float, text: str) -> None:
        """A line above the table."""
        self._console.print(f"[dim]{seconds:5.1f} s[/dim]  {escape(text)}")


@contextlib.contextmanager
def watching(console: Console, *, silent: bool) -> Iterator[View]:
    """The view that fits where the output goes."""
    if silent:
        yield Silent()
    elif console.is_terminal and not console.is_dumb_terminal:
        with Live(console=console, refresh_per_second=_REFRESH_A_SECOND, transient=True) as live:
            yield Drawn(console, live)
    else:
        yield Plain(console)


def _head(seconds: float, text: str) -> Text:
    return Text.assemble((f"{seconds:5.1f} s  ", "dim"), (text, "bold"))


def line_of(progress: Progress) -> str:
    """How far it is, in one line."""
    if not progress.published:
        return progress.phase
    of = f" of {progress.tasks}" if progress.tasks else ""
    published, *others = _named(progress)[:4]  # more would not fit in a line
    shown = ", ".join(f"{name} {_short(value)}" for name, value in others)
    return f"{progress.phase}: published {_short(published[1])}{of}, {shown}"


def _named(progress: Progress) -> list[tuple[str, int]]:
    named = [
        ("published", progress.published),
        ("waiting", progress.waiting),
        ("in hand", progress.in_hand),
        ("settled", progress.settled),
    ]
    return [*named, ("results", progress.results)] if progress.tasks else named


def _short(value: int) -> str:
    """A large figure in thousands, so that a line stays a line."""
    return f"{value:,}" if value < 100_000 else f"{value // 1000:,}k"


def _figures(progress: Progress) -> Table:
    table = Table(box=None, padding=(0, 4, 0, 0), header_style="dim")
    named = ([("tasks", progress.tasks)] if progress.tasks else []) + _named(progress)
    for name, _ in named:
        table.add_column(name, justify="right", min_width=9)
    table.add_row(*(f"{value:,}" for _, value in named))
    return table


def _consumers(progress: Progress) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), width=WIDTH - 1, header_style="dim")
    table.add_column("consumer", justify="right")
    table.add_column("pid", justify="right")
    table.add_column("in hand", justify="right")
    table.add_column("settled", justify="right")
    table.add_column("working on", no_wrap=True, overflow="ellipsis", ratio=1)
    for line in progress.consumers:
        what = Text(line.state, style="red" if line.state == "killed" else "dim") if line.state else Text(line.task)
        table.add_row(str(line.number), str(line.pid), f"{line.in_hand:,}", f"{line.settled:,}", what)
    return table

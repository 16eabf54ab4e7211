"""`python -m dq.main demo --step`: a walk through a small broker, act by act, and in each act envelope by envelope."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import tempfile
import time
from pathlib import Path

from dq.client.manager import BrokerManager
from dq.client.watcher import Seen, Watcher
from dq.demo.acts import ACTS, Act, Cast, Mark, meaning_of, name_of, way_of
from dq.demo.failed import DemoFailed
from dq.demo.new_lines import Line, NewLines
from dq.demo.run import terminated_in_order
from dq.operator_logs import LogWish

_ACT_SECONDS = 30.0
_INTRO = """\
A broker of three processes runs in {root}.
In {acts} acts a record is published, leased, acked, tried again, lost and dead-lettered. Each act is done when you step to it;
then each envelope that it caused is shown: who sent it to whom, what it is for, and what stands in the log by now.
(Signs of life, which consumers send every few seconds, are left out.)
"""


class _Quit(Exception):
    """The user has seen enough."""


class _Page:
    """Writes, and on a terminal waits to be stepped on."""

    def __init__(self) -> None:
        self._steps = sys.stdin.isatty() and sys.stdout.isatty()
        coloured = self._steps and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        self._bold, self._dim, self._plain = ("\x1b[1m", "\x1b[2m", "\x1b[0m") if coloured else ("", "", "")

    def write(self, text: str = "") -> None:
        print(text, flush=True)

    def bold(self, text: str) -> str:
        return f"{self._bold}{text}{self._plain}"

    def dim(self, text: str) -> str:
        return f"{self._dim}{text}{self._plain}"

    def step(self, what: str) -> None:
        """Waits for Enter. Raises _Quit at a `q` and at the end of the input."""
        if not self._steps:
            return
        print(self.dim(f"[Enter: {what}, q: quit] "), end="", flush=True)
        said = sys.stdin.readline()
        if not said or said.strip().lower() == "q":
            raise _Quit


def run_step(logs: LogWish) -> int:
    """Runs it; returns the exit code.

    Args:
        logs: how the broker logs. Its warnings would be of the consumer that is killed.

    Raises:
        DqError, OSError: it cannot be run.
    """
    page = _Page()
    with (
        terminated_in_order(),
        tempfile.TemporaryDirectory(prefix="dq-step-") as directory,
        BrokerManager(Path(directory) / "queue_data", log_level=logs.level, log_format=logs.form) as broker,
        Watcher(broker.root) as watcher,
        contextlib.closing(Cast(broker)) as cast,
    ):
        try:
            _Walk(page, watcher, cast).go()
        except _Quit:
            page.write("Nothing of it is kept.")
        else:
            page.write("That was all of it, and its directory is removed now. `events -f` shows the same of a broker of yours.")
    return 0


class _Walk:
    """The acts, one after the other."""

    def __init__(self, page: _Page, watcher: Watcher, cast: Cast) -> None:
        self._page, self._watcher, self._cast = page, watcher, cast
        self._lines = NewLines(cast.root)

    def go(self) -> None:
        """All acts."""
        self._page.write(_INTRO.format(root=self._cast.root, acts=len(ACTS)))
        for number, act in enumerate(ACTS, 1):
            self._page.write(self._page.bold(f"Act {number} of {len(ACTS)}: {act.title}"))
            self._page.write(f"    {act.code}")
            self._page.step("do it")
            act.do(self._cast)
            self._show(_without_echoes(self._wait(act)))

    def _wait(self, act: Act) -> list[Seen]:
        """What the act caused, and what was still under way from the one before it."""
        seen: list[Seen] = []
        missing, deadline = set[Mark](act.last), time.monotonic() + _ACT_SECONDS
        while missing:
            if time.monotonic() >= deadline:
                raise DemoFailed(f"the envelopes of {act.title!r} did not all come within {_ACT_SECONDS:g} s")
            for each in self._watcher.take(1.0):
                seen.append(each)
                missing.discard((each.process, each.direction, each.kind, each.speaker))
        return [each for each in seen if each.kind != "EXTEND"]

    def _show(self, seen: list[Seen]) -> None:
        notes = _notes(self._lines.take())
        for place, each in enumerate(seen, 1):
            sender, receiver = way_of(each)
            said = self._page.bold(f"{each.kind} of {each.speaker}")
            self._page.write(f"  {place}/{len(seen)}  {sender} -> {receiver}: {said}")
            self._page.write(f"       {meaning_of(each) or f'{each.kind} of the {name_of(each.speaker)}.'}")
            self._page.write(self._page.dim(f"       {_details(each)}"))
            written = notes if place == len(seen) else [note for note in notes if _stands_by(note[-1], each)]
            notes = [note for note in notes if note not in written]
            for line in itertools.chain.from_iterable(written):
                self._show_line(line)
            if place < len(seen):
                self._page.step("next envelope")
        self._page.write()

    def _show_line(self, line: Line) -> None:
        path = line.path.relative_to(self._cast.root)
        self._page.write(f"       {self._page.dim(f'{path}, byte {line.byte}:')}")
        self._page.write(f"       {line.text}")


def _notes(lines: list[Line]) -> list[tuple[Line, ...]]:
    """Each line with the headers that stand before it."""
    notes: list[tuple[Line, ...]] = []
    headers: tuple[Line, ...] = ()
    for line in lines:
        if line.text.startswith(('{"batch":', '{"segment":')):
            headers += (line,)
        else:
            notes.append((*headers, line))
            headers = ()
    return [*notes, headers] if headers else notes


def _details(seen: Seen) -> str:
    parts = [f"{name}={value}" for name, value in seen.fields.items()]
    client = [seen.client] if seen.client else []
    return "  ".join([*client, *parts, f"{seen.bytes} bytes of envelope, {seen.body} after it"])


def _without_echoes(seen: list[Seen]) -> list[Seen]:
    """What one process of the broker sends another is seen at both ends: here once, where it was sent."""
    sent: list[tuple[str, str, str, str]] = []
    shown = []
    for each in seen:
        way = (*way_of(each), each.kind, each.speaker)
        if each.direction == "in" and way in sent:
            sent.remove(way)
            continue
        if each.direction == "out":
            sent.append(way)
        shown.append(each)
    return shown


def _stands_by(line: Line, seen: Seen) -> bool:
    """Whether a line was there at the latest when this was sent: a broker writes first, and then speaks."""
    if seen.direction == "in":
        return False
    if not line.of_sink:
        return seen.process == "publisher_broker" and seen.kind in ("ACK", "COMMITTED")
    if line.text.startswith('{"stored":'):
        return False  # by the last one of its act
    # A turn's notes are written together; a lease's is shown with the lease, the others with what was sent first after them.
    return seen.process == "consumer_broker" and seen.kind != "READ" and ('"lease":' not in line.text or seen.kind == "TASK")

"""How a run is watched."""

from __future__ import annotations

import io

from rich.console import Console

from dq.demo.progress import ConsumerLine, Progress
from dq.demo.view import watching


def progress(seconds: float, settled: int) -> Progress:
    """A look at a run."""
    consumer = ConsumerLine(number=3, pid=4711, joined=True, state="", in_hand=2, settled=settled, task="json/decoder.py")
    killed = ConsumerLine(number=4, pid=4712, joined=False, state="killed", in_hand=0, settled=1, task="")
    return Progress(
        seconds=seconds, phase="tasks", tasks=734, published=120_000, waiting=7, in_hand=2, settled=settled, redelivered=0,
        results=settled, consumers=(consumer, killed),
    )  # fmt: skip


def shown(*, terminal: bool, silent: bool = False) -> str:
    """What is written for three looks and an event."""
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=80, highlight=False, color_system=None, legacy_windows=False)
    with watching(console, silent=silent) as view:
        view.begin(0.1, "starting")
        view.show(progress(1.0, 10))
        view.show(progress(1.5, 11))
        view.tell(1.7, "kill -9 4712: [consumer 4]")
        view.show(progress(2.5, 12))
    return output.getvalue()


def test_without_a_terminal_there_is_a_line_a_second_and_one_for_each_event() -> None:
    lines = shown(terminal=False).splitlines()
    assert lines == [
        "  0.1 s  starting",
        "  1.0 s  tasks: published 120k of 734, waiting 7, in hand 2, settled 10",
        "  1.7 s  kill -9 4712: [consumer 4]",
        "  2.5 s  tasks: published 120k of 734, waiting 7, in hand 2, settled 12",
    ]


def test_on_a_terminal_there_is_a_table_of_the_consumers() -> None:
    drawn = shown(terminal=True)
    assert "json/decoder.py" in drawn
    assert "killed" in drawn
    assert "120,000" in drawn
    assert "kill -9 4712: [consumer 4]" in drawn


def test_with_json_nothing_is_shown() -> None:
    assert shown(terminal=True, silent=True) == ""

"""`python -m dq.main demo --step`: the walk, on a terminal and without one."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from demo_program import PLAIN, PROGRAM, ROOT, run

from dq import Publisher
from dq.demo.acts import ACTS
from dq.demo.new_lines import NewLines
from stage import DEADLINE_SECONDS, marked, until


class Terminal:
    """The walk on a terminal of 80 columns."""

    def __init__(self, place: Path) -> None:
        self._ours, theirs = pty.openpty()
        self.mark = f"DQ_WALK={place.name}"
        environment = {**PLAIN, "TMPDIR": str(place), "DQ_WALK": place.name}
        self.process = subprocess.Popen(
            [*PROGRAM, "demo", "--step"], stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, cwd=ROOT, env=environment
        )
        os.close(theirs)

    def read_to(self, what: str) -> str:
        """What is shown until `what` is."""
        shown, deadline = "", time.monotonic() + 3 * DEADLINE_SECONDS
        while what not in shown:
            assert time.monotonic() < deadline, shown
            try:
                shown += os.read(self._ours, 65536).decode()
            except OSError:  # it ended
                break
        assert what in shown, shown
        return shown

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        os.close(self._ours)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    with tempfile.TemporaryDirectory() as place:  # not below pytest's: a socket's path is short
        walk = Terminal(Path(place))
        yield walk
        walk.close()


def test_without_a_terminal_it_goes_through_and_shows_every_act_in_order(tmp_path: Path) -> None:
    done = run("demo", "--step")
    assert (done.returncode, done.stderr) == (0, "")
    assert re.findall(r"^Act (\d+) of", done.stdout, re.MULTILINE) == [str(n) for n in range(1, len(ACTS) + 1)]
    assert "Enter" not in done.stdout
    assert "\x1b" not in done.stdout
    # Each envelope has its sentence, and they are counted through
    acts = done.stdout.split("\nAct ")[1:]
    for act in acts:
        counted = re.findall(r"^  (\d+)/(\d+)  [a-z ]+ -> [a-z ]+: ([A-Z]+) of [A-Z_]+\n {7}(.+)", act, re.MULTILINE)
        assert [int(number) for number, *_ in counted] == list(range(1, int(counted[0][1]) + 1))
        for _, _, kind, sentence in counted:
            assert not sentence.startswith(f"{kind} of the"), act
    # What each act teaches is there, in this order, with what stands in the log
    for act, lesson in zip(
        acts,
        [
            "REGISTER of PUBLISHER", "COMMITTED", '"payload":{"cup":"tea"}', '"lease":', '{"ack":', "TASK", '{"retry":',
            '{"lost":', '"lease":', "orders-dlq", "WRITE of LISTENER",
        ],
        strict=True,
    ):  # fmt: skip
        assert lesson in act
    assert '"payload":{"cup":"mocha"},"headers"' in acts[9]
    assert ".jsonl" not in acts[10]
    lines = re.findall(r"^ {7}(\{.*)$", done.stdout, re.MULTILINE)
    assert len(lines) > 20
    assert all(json.loads(line) for line in lines)


def test_on_a_terminal_nothing_is_done_before_it_is_stepped_to(terminal: Terminal) -> None:
    first = terminal.read_to("do it, q: quit] ")
    assert "Act 1 of" in first
    assert "REGISTER" not in first
    terminal.press("\n")
    shown = terminal.read_to("next envelope, q: quit] ")
    assert shown.count(" -> ") == 1
    assert "publisher -> manager: REGISTER of PUBLISHER" in shown
    terminal.press("\n")
    assert "manager -> publisher broker" in terminal.read_to("next envelope, q: quit] ")
    terminal.press("\n")
    assert "Act 2 of" in terminal.read_to("do it, q: quit] ")
    terminal.press("q\n")
    terminal.read_to("Nothing of it is kept.")
    assert terminal.process.wait(DEADLINE_SECONDS) == 0
    until(lambda: marked(terminal.mark) == [])


def test_ctrl_c_ends_it_and_leaves_nothing_behind(terminal: Terminal) -> None:
    terminal.read_to("do it, q: quit] ")
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.process.wait(DEADLINE_SECONDS) == 130
    until(lambda: marked(terminal.mark) == [])


def test_new_lines_are_told_with_their_file_and_byte(broker, name) -> None:
    lines = NewLines(broker.root)
    lines.take()
    with Publisher(broker, name) as publisher:
        for n in range(3):
            publisher.publish({"n": n})
            new = lines.take()
            assert [json.loads(line.text)["payload"] for line in new if '"payload"' in line.text] == [{"n": n}]
            for line in new:
                with line.path.open("rb") as file:
                    file.seek(line.byte)
                    assert file.readline() == line.text.encode() + b"\n"
        assert lines.take() == []

"""`python -m dq.main events`: the envelopes, live."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from pathlib import Path

import pytest
from demo_program import PLAIN, PROGRAM, ROOT, start

from dq.cli.commands import run


def test_so_many_are_shown_and_then_it_ends(broker, name, capsys: pytest.CaptureFixture[str]) -> None:
    program = start("events", broker.root, "-n", "3")
    while program.poll() is None:  # the publisher is new each time, so that there is something to see whenever it looks
        broker.publish(name, {"secret": "tea"})
    shown, errors = program.communicate(timeout=30)
    assert (program.returncode, errors) == (0, "")
    lines = shown.splitlines()
    assert len(lines) == 3
    assert all(" bytes" in line and ("<-" in line or "->" in line) for line in lines)
    assert "WRITE" in shown or "ACK" in shown
    assert "secret" not in shown
    assert "\x1b" not in shown


def test_json_is_an_object_a_line(broker, name) -> None:
    program = start("events", broker.root, "-n", "2", "--json")
    while program.poll() is None:
        broker.publish(name, 1)
    for line in program.communicate(timeout=30)[0].splitlines():
        assert {"at", "process", "direction", "peer", "client", "kind", "speaker", "bytes", "body", "fields"} == set(
            json.loads(line)
        )


def test_without_follow_it_ends_after_a_second(broker, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["events", str(broker.root)]) == 0


def test_ctrl_c_ends_it_on_a_terminal_with_colours(broker, name) -> None:
    ours, theirs = pty.openpty()
    environment = {**{key: value for key, value in PLAIN.items() if key != "NO_COLOR"}, "TERM": "xterm"}
    command = [*PROGRAM, "events", str(broker.root), "-f"]
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, cwd=ROOT, env=environment) as program:
        os.close(theirs)
        os.set_blocking(ours, False)
        shown = b""
        while b"WRITE" not in shown:
            broker.publish(name, 1)
            try:
                shown += os.read(ours, 65536)
            except BlockingIOError:
                continue
        program.send_signal(signal.SIGINT)
        assert program.wait(30) == 130
        assert program.stderr.read() == b"dq: stopped by Ctrl-C\n"
    os.close(ours)
    assert b"\x1b[1mWRITE" in shown


def test_without_a_broker_it_says_how_to_start_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["events", str(tmp_path)]) == 69
    assert "serve" in capsys.readouterr().err

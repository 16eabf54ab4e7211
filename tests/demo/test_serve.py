"""`python -m dq.main serve`: a broker in the foreground."""

from __future__ import annotations

import signal
from pathlib import Path

from demo_program import run, start

import dq


def test_serve_serves_until_sigterm_and_keeps_what_it_was_given(tmp_path: Path) -> None:
    program = start("serve", tmp_path / "data")
    said = program.stdout.readline()
    assert str(tmp_path / "data") in said
    with dq.connect(tmp_path / "data") as broker:
        assert str(broker.manager_pid) in said
        broker.publish("tasks", {"kept": True})
        second = run("serve", tmp_path / "data")
    program.send_signal(signal.SIGTERM)
    _, errors = program.communicate(timeout=30)
    assert program.returncode == 0, errors
    assert "Traceback" not in errors
    assert second.returncode == 75
    assert str(program.pid) in second.stderr
    assert second.stderr.count("\n") == 1
    assert '{"kept":true}' in next((tmp_path / "data/streams/tasks/0").glob("*.jsonl")).read_text()


def test_serve_ends_well_at_ctrl_c(tmp_path: Path) -> None:
    program = start("serve", tmp_path / "data")
    program.stdout.readline()
    program.send_signal(signal.SIGINT)
    _, errors = program.communicate(timeout=30)
    assert program.returncode == 0, errors
    assert "Traceback" not in errors

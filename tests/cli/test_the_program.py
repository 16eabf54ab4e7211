"""The program as a whole: help, the table of exit codes, how fast it is there."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from dq.cli.commands import COMMANDS
from dq.cli.commands import dq as group
from dq.cli.exits import MEANINGS, Exit

ROOT = Path(__file__).parents[2]
DQ = [sys.executable, "-c", "from dq.main import command; raise SystemExit(command())"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(dq, command) -> None:
    ended = dq(command, "--help")
    assert (ended.code, ended.err) == (0, "")
    assert "Examples:" in ended.out
    assert f"dq {command}" in ended.out


NO_JSON = {
    "work": "all that it says is its log: --log-format json",
    "completion": "it prints a script for a shell",
    "export": "it prints JSON lines, and nothing else",
}


def without_json(command: click.Command, name: str) -> Iterator[str]:
    """The commands below this one that cannot answer in JSON."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for inner in command.list_commands(context):
            yield from without_json(command.get_command(context, inner), f"{name} {inner}".strip())
    elif not any("--json" in parameter.opts for parameter in command.params):
        yield name


def test_every_command_answers_in_json_but_those_that_have_a_reason() -> None:
    assert set(without_json(group, "")) == set(NO_JSON)


def test_help_lists_every_command(dq) -> None:
    out = dq("--help").out
    assert all(f"\n  {command} " in out for command in COMMANDS)


def test_every_exit_code_has_its_meaning() -> None:
    assert set(MEANINGS) == set(Exit)
    page = (ROOT / "docs" / "commands.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert rows == [f"| {int(code)} | {meaning} |" for code, meaning in MEANINGS.items()]


def test_the_bare_command_shows_the_status_and_the_commands(tmp_path) -> None:
    done = subprocess.run(DQ, capture_output=True, text=True, timeout=30, check=False, cwd=tmp_path)
    assert done.returncode == 0
    assert "no broker runs for" in done.stdout
    assert "serve" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_command_is_refused_with_near_ones(dq) -> None:
    ended = dq("strems")
    assert ended.code == 2
    assert "did you mean 'streams'" in ended.err


@pytest.mark.alone
def test_help_is_there_at_once() -> None:
    """Within 0.15 s of `python -c pass`; the best of seven each, since others use this machine too."""

    def best(command: list[str]) -> float:
        took = []
        for _ in range(7):
            begun = time.perf_counter()
            subprocess.run(command, capture_output=True, timeout=30, check=True)
            took.append(time.perf_counter() - begun)
        return min(took)

    bare = best([sys.executable, "-c", "pass"])
    assert best([*DQ, "--help"]) - bare < 0.15

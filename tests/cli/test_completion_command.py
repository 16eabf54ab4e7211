"""`dq completion`, and what a shell is answered that asks: commands, options, the names on the disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dq.cli.commands import COMMANDS


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A data directory as a listing sees it."""
    for name in (
        "streams/orders",
        "streams/orders-dlq",
        "streams/logs",
        "streams/.made",
        "sinks/mailers",
        "sinks/later:orders",
    ):
        (tmp_path / "queue_data" / name).mkdir(parents=True)
    (tmp_path / "queue_data" / "streams" / "writer.lock").touch()
    (tmp_path / "queue_data" / "dq.json").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DQ_DIR", raising=False)
    return tmp_path / "queue_data"


@pytest.fixture
def completed(dq, monkeypatch):
    """`completed("tail", "or")`: what bash is offered for the last word, by kind and word."""

    def ask(*words: str) -> list[tuple[str, str]]:
        with monkeypatch.context() as patch:
            patch.setenv("_DQ_COMPLETE", "bash_complete")
            patch.setenv("COMP_WORDS", " ".join(["dq", *words]))
            patch.setenv("COMP_CWORD", str(len(words)))
            ended = dq()
        assert (ended.code, ended.err) == (0, "")
        return [tuple(line.split(",", 1)) for line in ended.out.splitlines() if line]

    return ask


def words(offered: list[tuple[str, str]]) -> list[str]:
    assert all(kind == "plain" for kind, _ in offered)
    return [word for _, word in offered]


def test_commands_are_offered_without_any_of_them_being_imported(completed) -> None:
    assert words(completed("")) == list(COMMANDS)
    assert words(completed("str")) == ["streams", "stream"]
    assert words(completed("sink", "pa")) == ["pause"]


def test_options_are_offered(completed) -> None:
    assert {"--from", "--follow", "--json"} <= set(words(completed("tail", "--")))
    assert words(completed("export", "--sin")) == ["--sinks"]
    assert words(completed("completion", "f")) == ["fish"]


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["tail", "ord"], ["orders", "orders-dlq"]),
        (["tail", "orders", "l"], ["logs"]),
        (["publish", ""], ["logs", "orders", "orders-dlq"]),
        (["stream", "show", "lo"], ["logs"]),
        (["import", "-", "--stream", "lo"], ["logs"]),
        (["sink", "pause", ""], ["mailers"]),
        (["consume", "orders", "--sink", "m"], ["mailers"]),
        (["log", "stats", "lo"], ["logs"]),
        (["publish", "orders", "x"], []),
        (["peek", ""], ["logs", "mailers", "orders", "orders-dlq"]),
        (["who", "m"], ["mailers"]),
        (["nothing", ""], []),
    ],
    ids=lambda value: " ".join(value),
)
def test_streams_and_sinks_are_those_on_the_disk(root, completed, typed, offered) -> None:
    if typed[0] == "nothing":
        with pytest.raises(AssertionError, match="1"):  # it has no answer, and says nothing
            completed(*typed)
        return
    assert words(completed(*typed)) == offered


def test_another_data_directory_is_looked_into_where_it_was_named(root, completed, tmp_path) -> None:
    (tmp_path / "other" / "streams" / "elsewhere").mkdir(parents=True)
    assert words(completed("tail", "--data", str(tmp_path / "other"), "")) == ["elsewhere"]
    assert completed("tail", "--data", "ot") == [("dir", "ot")]
    assert completed("import", "x") == [("file", "x")]


def test_where_there_is_nothing_nothing_is_offered_and_nothing_is_made(completed, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("DQ_DIR", str(tmp_path / "none"))
    assert completed("tail", "") == []
    assert completed("sink", "show", "") == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_asks_for_this_program(dq, shell) -> None:
    ended = dq("completion", shell)
    assert (ended.code, ended.err) == (0, "")
    assert f"_DQ_COMPLETE={shell}_complete" in ended.out
    if shutil.which(shell):
        checked = subprocess.run([shell, "-n"], input=ended.out, capture_output=True, text=True, timeout=30, check=False)
        assert (checked.returncode, checked.stderr) == (0, "")


def test_bash_completes_the_program_itself(root, dq, tmp_path) -> None:
    program = tmp_path / "dq"
    program.write_text(f"#!{sys.executable}\nfrom dq.main import command\nraise SystemExit(command())\n")
    program.chmod(0o755)
    script = (
        f"{dq('completion', 'bash').out}\n"
        "COMP_WORDS=(dq tail ord); COMP_CWORD=2; _dq_completion dq; echo ${COMPREPLY[*]}\n"
        "complete -p dq\n"
    )
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=30, check=True, env=env)
    assert done.stdout.splitlines()[0] == "orders orders-dlq"
    assert "_dq_completion" in done.stdout.splitlines()[1]

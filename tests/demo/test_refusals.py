"""What the program refuses: in one line, with an exit code, and with nothing half-done."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from demo_program import FEW, start

from dq import BrokerManager, BrokerRunning
from dq.cli.commands import run
from dq.demo.failed import DemoFailed
from dq.demo.place import MARK, claim


@pytest.mark.parametrize(
    "arguments",
    [
        ["--publishers", "0"],
        ["--publishers", "65"],
        ["--consumers", "-1"],
        ["--consumers", "x"],
        ["--input", "/there/is/no/such/file"],
        ["--data", ""],
        ["--what"],
        ["serve", "one", "two"],
    ],
    ids=" ".join,
)
def test_wrong_arguments_are_one_line_and_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    assert_one_line(capsys)


def test_an_unknown_command_is_refused_and_the_known_ones_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sevre"]) == 2
    assert "serve" in assert_one_line(capsys)


@pytest.mark.parametrize("content", [None, ""], ids=["a directory without sources", "a file without lines"])
def test_an_input_with_nothing_in_it_is_refused(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "input"
    if content is None:
        source.mkdir()
    else:
        source.write_text(content)
    assert run(["--json", "--input", str(source), "--data", str(tmp_path / "data")]) == 1
    assert_one_line(capsys)
    assert not (tmp_path / "data").exists()


# --- the directory ---------------------------------------------------------------------------------------------------
def test_a_directory_of_somebody_else_is_refused_and_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "streams").mkdir()
    (tmp_path / "streams" / "mine").write_text("mine")
    assert run(["--json", "--data", str(tmp_path)]) == 1
    assert "--data" in assert_one_line(capsys)
    assert (tmp_path / "streams" / "mine").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["streams"]


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.write_text("mine")
    with pytest.raises(DemoFailed, match="is a file"):
        claim(place)
    assert place.read_text() == "mine"


def test_a_directory_in_use_is_refused_with_the_pid_of_who_uses_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    claim(tmp_path / "demo")
    with BrokerManager(tmp_path / "demo") as broker:
        broker.publish("tasks", "kept")
        assert run(["--json", "--data", str(tmp_path / "demo")]) == 75
        assert str(broker.manager_pid) in assert_one_line(capsys)
        assert broker.stats()["publisher_broker"]["streams"]["tasks"]["records"] == 1


def test_what_a_broker_made_is_removed_but_for_its_locks_and_what_is_not_its_own(tmp_path: Path) -> None:
    place = tmp_path / "demo"
    claim(place)
    with BrokerManager(place) as broker:
        broker.publish("tasks", "to be removed")
    (place / "notes.txt").write_text("mine")
    lock = (place / "dq.lock").stat().st_ino
    claim(place)
    assert not (place / "streams" / "tasks").exists()
    assert (place / "dq.lock").stat().st_ino == lock
    assert (place / "notes.txt").read_text() == "mine"
    with BrokerManager(place) as broker:
        assert broker.stats()["publisher_broker"]["streams"] == {}


def test_a_new_directory_is_marked_before_anything_is_in_it(tmp_path: Path) -> None:
    claim(tmp_path / "a" / "b")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == [MARK]
    claim(tmp_path / "a" / "b")


def test_two_claims_at_once_do_not_empty_each_other(tmp_path: Path) -> None:
    claim(tmp_path)
    with BrokerManager(tmp_path), pytest.raises(BrokerRunning):
        claim(tmp_path)


# --- signals ---------------------------------------------------------------------------------------------------------
def test_ctrl_c_stops_everything_and_exits_with_130(tmp_path: Path) -> None:
    program = start("--data", tmp_path / "demo", *FEW)
    wait_for_line(program.stdout, "published")
    os.killpg(program.pid, signal.SIGINT)  # as a terminal does: to all of the group
    _, errors = program.communicate(timeout=30)
    assert program.returncode == 130
    assert errors == "dq: stopped by Ctrl-C\n"
    claim(tmp_path / "demo")  # nobody has it any more


def wait_for_line(output, word: str) -> str:
    """Reads until a line has this word in it."""
    for line in output:
        if word in line:
            return line
    raise AssertionError(f"it ended without a line with {word!r}")


def assert_one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Nothing on standard output, one line on standard error."""
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.count("\n") == 1
    assert errors.startswith("dq: ")
    return errors

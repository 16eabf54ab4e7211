"""What `docs/operations.md` tells to do is done here on a real directory, and every error of dq has its section there."""

from __future__ import annotations

import re
import shlex
import shutil
from configparser import ConfigParser
from pathlib import Path

import pytest
from doc_blocks import ROOT, blocks_of, run_line, run_shell

import dq
from dq import errors
from dq.cli.exits import Exit
from dq.cli.failures import code_of

PAGE = (ROOT / "docs" / "operations.md").read_text()
BLOCKS = blocks_of(ROOT / "docs" / "operations.md")
LINES = [line for block in BLOCKS if block.language == "sh" for line in block.text.splitlines()]
SECTIONS = dict(re.findall(r"^#### (\w+)\n\n(.*?)(?=\n#|\Z)", PAGE, re.M | re.S))
KINDS = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, dq.DqError) and kind.__module__ == errors.__name__
}
ROOTS = {"DqError", "BrokerError", "UsageError", "PublishError", "LogError", "HandlerError"}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands of the page find their `queue_data`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DQ_DIR", raising=False)
    return tmp_path


def the_line(*parts: str) -> str:
    """The one line of the page that has all these in it."""
    [line] = [line for line in LINES if all(part in line for part in parts)]
    return line


def test_what_to_watch_and_to_free_can_be_read_and_freed(place: Path) -> None:
    with dq.BrokerManager("queue_data") as broker:
        broker.publish("orders", {"n": 1})
        broker.publish("old-orders", {"n": 1})
        with broker.sink("kitchen", "orders").consumer(idle_timeout=0.05) as consumer:
            for task in consumer:
                task.dead_letter("no tea")
        assert run_line(the_line("dq check", "--waiting"))[0] == 1  # the dead letter
        assert run_line(the_line("dq status --json"))[1].endswith('"streams":3}\n')
        assert run_line(the_line("dq sinks --json"))[1] == '{"name":"kitchen","waiting":0,"settled":1}\n'
        assert run_line(the_line("dq streams --json"))[1] == "orders-dlq 1\n"
        for line in (line for line in LINES if line.startswith(("dq streams", "dq log", "dq stream ")) and " | " not in line):
            assert run_line(line)[0] == 0, line
        assert broker.streams() == ["orders", "orders-dlq"]


def test_a_backup_is_whole_and_a_spoiled_log_is_mended_step_by_step(place: Path) -> None:
    # Given a directory whose broker has stopped, and a copy of it
    with dq.BrokerManager("queue_data") as broker:
        for n in range(3):
            broker.publish("orders", {"n": n})
    assert the_line("dq stop queue_data")
    run_shell(the_line("cp -a"), place)
    assert run_line(the_line("dq verify", "copy"))[0] == 0
    # When a byte of the second record is spoiled
    log = place / "queue_data/streams/orders/0/00000000000000000000.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole.replace(b'"n":1', b'"n":7'))
    # Then the steps of the page find it, save the rest, and end the log before it
    code, said = run_line("dq verify queue_data")
    assert code == Exit.DAMAGED
    position = re.findall(r"--truncate-at (\d+)", said)[0]
    assert int(position) == whole.index(b'{"batch":1')
    assert run_line(the_line("--salvage"))[0] == 0
    for line in (line for line in LINES if "--truncate-at" in line):
        assert run_line(line.replace("10240", position))[0] == 0
    assert run_line("dq verify queue_data")[0] == 0
    assert (place / "queue_data/quarantine/repairs.jsonl").exists()
    with dq.BrokerManager("queue_data") as broker:
        assert run_line(the_line("saved.jsonl |").replace(">= 2", ">= 1"))[0] == 0
        with broker.reader("orders", start="oldest", follow=False) as reader:
            assert [record.payload for record in reader] == [{"n": 0}, {"n": 2}]
    # And the copy in its place brings all back
    shutil.rmtree("queue_data")
    shutil.move("queue_data.copy", "queue_data")
    with dq.Reader("queue_data", "orders", start="oldest", follow=False) as reader:
        assert [record.payload for record in reader] == [{"n": 0}, {"n": 1}, {"n": 2}]


def test_every_error_has_its_section_and_no_other_has_one() -> None:
    assert set(SECTIONS) == set(KINDS) - ROOTS
    for name in ROOTS:
        assert f"`{name}`" in PAGE or f"`dq.{name}`" in PAGE


@pytest.mark.parametrize("name", sorted(SECTIONS))
def test_the_section_of_an_error_has_its_exit_code(name: str) -> None:
    told = re.search(r"Exit code (\d+)", SECTIONS[name])
    assert int(told[1] if told else Exit.FAILED) == code_of(KINDS[name]("why"))


def test_the_units_of_the_page_run_commands_that_there_are() -> None:
    units = [block for block in BLOCKS if block.language == "ini"]
    assert len(units) == 2
    for block in units:
        unit = ConfigParser()
        unit.optionxform = str  # type: ignore[assignment, method-assign]
        unit.read_string(block.text)
        program, *arguments = shlex.split(unit["Service"]["ExecStart"])
        assert program.endswith("/dq")
        assert arguments[0] in ("serve", "work")
    codes = re.findall(r"RestartPreventExitStatus=(.*)", PAGE)[0].split()
    assert [int(code) for code in codes] == [Exit.USAGE, Exit.DAMAGED, Exit.IN_USE, Exit.NOT_PERMITTED]

"""Every command against a running and a stopped broker, an empty, a damaged, a read-only and a missing directory."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import every_command as every
import pytest
from mounts import run as run_program
from mounts import tmpfs

from dq import BrokerManager
from stage import until

WITHOUT_BROKER = dict.fromkeys(("config", "tail", "peek", "log stats", "explain", "at", "export", "verify", "repair"), 0)
"""Which read the disk alone."""
CHECK = {"check": 2}  # by the conventions of monitoring systems
NO_DIRECTORY = CHECK | {"config": 0, "peek": 4, "explain": 4, "at": 4, "repair": 2}
CODES: dict[str, dict[str, int]] = {
    "stopped": CHECK | WITHOUT_BROKER,
    "damaged stream": CHECK | dict.fromkeys(WITHOUT_BROKER, 65) | {"config": 0, "repair": 0},
    "damaged sink": CHECK | WITHOUT_BROKER | dict.fromkeys(("log stats", "explain", "at", "verify"), 65),
    "empty": NO_DIRECTORY | {"verify": 0},
    "missing": NO_DIRECTORY | {"verify": 74},
}
"""By situation; of what is not named, 69: no broker."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """The running broker, and a directory by situation."""
    roots = {situation: tmp_path_factory.mktemp("dq") / "queue_data" for situation in ("running", *CODES)}
    with every.lived_in(roots["running"]) as broker:
        for situation in ("stopped", "damaged stream", "damaged sink"):
            every.copied(broker, roots[situation])
        every.flipped(roots["damaged stream"] / "streams" / "orders" / "0")
        every.flipped(roots["damaged sink"] / "sinks" / "billing")
        roots["empty"].mkdir()
        for situation in ("empty", "missing"):
            roots[situation].with_name("records.jsonl").touch()
        yield roots


def judged(dq, name: str, root: Path, code: int, *more: str, run: int = 1) -> None:
    """Runs it: the code is this, what went wrong is told in a line, and with `--json` there is nothing but JSON."""
    ended = dq(*every.line_of(name, root, *more, run=run))
    assert ended.code == code, (ended.err, ended.out)
    assert not set("\x1b\x07\r") & set(ended.out + ended.err)
    if code not in (0, 65) and name != "check":
        assert (ended.out, ended.err.count("\n")) == ("", 1)
    if code == 65:
        assert "dq repair" in ended.out + ended.err or "dq.main repair" in ended.out + ended.err
    if more:
        for line in ended.out.splitlines():
            json.loads(line)


def test_every_command_is_in_the_table() -> None:
    assert set(every.every_name()) == set(every.ROWS) | every.ELSEWHERE


@pytest.mark.parametrize("name", [name for name in every.ROWS if name != "stop"])
def test_with_a_running_broker_it_is_done(scene, dq, name) -> None:
    judged(dq, name, scene["running"], 0)
    if every.has_json(name):
        judged(dq, name, scene["running"], 0, "--json", run=2)


@pytest.mark.parametrize("situation", CODES)
@pytest.mark.parametrize("name", every.ROWS)
def test_without_a_broker_the_code_says_why_and_nothing_is_changed(scene, dq, name, situation) -> None:
    root = scene[situation]
    before = every.tree(root)
    code = CODES[situation].get(name, 69)
    judged(dq, name, root, code)
    if every.has_json(name):
        judged(dq, name, root, code, "--json")
    assert every.tree(root) == before


@pytest.mark.root
def test_on_a_read_only_disk_it_is_as_with_a_stopped_broker(scene, dq, tmp_path) -> None:
    with tmpfs(tmp_path / "disk", "16M") as disk:
        root = shutil.copytree(scene["stopped"], disk / "queue_data")
        (disk / "records.jsonl").touch()
        assert run_program("mount", "-o", "remount,ro", disk).returncode == 0
        for name in every.ROWS:
            judged(dq, name, root, CODES["stopped"].get(name, 69))
        ended = run_program(sys.executable, "-m", "dq.main", "serve", root)
        assert (ended.returncode, ended.stderr.count("\n")) == (74, 1), ended.stderr
        assert "Read-only file system" in ended.stderr


@pytest.mark.parametrize("name", ["publish", "consume"])
def test_start_alone_makes_no_directory(scene, dq, name) -> None:
    judged(dq, name, scene["missing"], 69, "--start")
    assert not scene["missing"].exists()


def test_a_broker_that_serves_a_damaged_log_serves_the_rest(scene, dq, tmp_path) -> None:
    root = shutil.copytree(scene["damaged stream"], tmp_path / "queue_data")
    with BrokerManager(root):
        until(lambda: "closed" in dq("status", "--data", root).out, what="it says that the stream is closed")
        for arguments in (["tail", "orders"], ["publish", "orders", "1"], ["export", "orders"], ["explain", "orders/0/0"]):
            ended = dq(*arguments, "--data", root)
            assert ended.code == 65, (arguments, ended)
            assert "orders/0" in ended.err
        assert dq("publish", "free", "1", "--data", root).code == 0
        assert dq("check", "--data", root).code == 2


@pytest.mark.parametrize("situation", ["stopped", "empty", "missing"])
def test_work_without_a_broker_says_how_to_start_one(scene, dq, tmp_path, situation) -> None:
    (tmp_path / "tasks.py").write_text(
        "import dq\napp = dq.App(sink='worked')\n@app.handler('worked-on')\ndef handle(task):\n    pass\n"
    )
    root, before = scene[situation], every.tree(scene[situation])
    command = [sys.executable, "-m", "dq.main", "work", "tasks:app", "--data", str(root)]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (69, "", 1), ended.stderr
    assert "serve" in ended.stderr
    assert every.tree(root) == before

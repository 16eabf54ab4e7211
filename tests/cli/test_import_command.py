"""`dq import`: each record once, however often it is begun; and nothing of a file with a line that is no record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dq import Consumer, Publisher
from dq.log.layout import Layout
from dq.log.locks import hold
from stage import until

DQ = [sys.executable, "-c", "from dq.main import command; raise SystemExit(command())"]


@pytest.fixture
def file(here, name, dq, tmp_path) -> Path:
    """An export of a stream of two buckets with ten records of three keys."""
    here.stream(name, buckets=2)
    with Publisher(here, name) as publisher:
        publisher.publish_many(range(10), key=lambda n: f"k{n % 3}")
    assert dq("export", name, "-o", tmp_path / "out.jsonl").code == 0
    return tmp_path / "out.jsonl"


def records(dq, stream: str) -> list[dict]:
    return [json.loads(line) for line in dq("tail", stream, "--from", "oldest", "--json").out.splitlines()]


def test_records_come_with_what_they_had_and_say_where_from(here, file, name, dq) -> None:
    ended = dq("import", file, "--stream", f"{name}-b", "--create")
    assert ended == (0, f"10 records imported into {name}-b\n", "")
    assert here.stream(f"{name}-b").settings == here.stream(name).settings
    found, before = records(dq, f"{name}-b"), {each["id"]: each for each in records(dq, name)}
    for key in ("k0", "k1", "k2"):  # in their order
        assert [each["payload"] for each in found if each["key"] == key] == [n for n in range(10) if f"k{n % 3}" == key]
    for each in found:
        old = before[each["headers"]["dq-import-id"]]
        assert (each["payload"], each["key"]) == (old["payload"], old["key"])
        assert float(each["headers"]["dq-import-time"]) == pytest.approx(old["at"], abs=1e-6)


def test_an_import_done_again_stores_nothing_unless_it_is_told_to(file, name, dq) -> None:
    lines, other = file.read_bytes().splitlines(keepends=True), f"{name}-b"
    assert (
        dq("import", "-", "--stream", other, "--create", lines=b"".join(lines[:5])).out == f"4 records imported into {other}\n"
    )
    ended = dq("import", file, "--stream", other, "--json")
    assert json.loads(ended.out) == {"stream": other, "imported": 6, "there_already": 4, "dry_run": False}
    assert dq("import", file, "--stream", other).out == f"0 records imported into {other}, 10 were there already\n"
    assert len(records(dq, other)) == 10
    assert dq("import", file, "--stream", other, "--again").out.startswith("10 records imported")
    assert len(records(dq, other)) == 20


def test_a_dry_run_stores_nothing(here, file, name, dq) -> None:
    ended = dq("import", file, "--stream", f"{name}-b", "--create", "--dry-run")
    assert ended.out == f"10 records would be imported into {name}-b\n"
    assert f"{name}-b" not in here.streams()
    assert dq("import", file, "--dry-run").out == f"10 records would be imported into {name}\n"
    assert len(records(dq, name)) == 10


def test_of_a_file_with_a_bad_line_nothing_is_stored(here, file, name, dq) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:7], b'{"id":"x"}\n', *lines[7:]]))
    ended = dq("import", file, "--stream", f"{name}-b", "--create")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == "dq: line 8 cannot be imported: a record has either a payload or base64\n"
    assert f"{name}-b" not in here.streams()


def test_of_standard_input_what_comes_before_a_bad_line_is_stored_and_counted(file, name, dq) -> None:
    lines = file.read_bytes().splitlines(keepends=True)
    ended = dq("import", "-", "--stream", f"{name}-b", "--create", lines=b"".join([*lines[:7], b"{\n", *lines[7:]]))
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.splitlines()[0] == "dq: 6 records were imported before this:"
    assert "line 8 is not JSON" in ended.err
    assert len(records(dq, f"{name}-b")) == 6


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ({"stream": "{name}-none", "payload": 1}, 4, "Say --create"),
        ({"stream": "{name}", "payload": 1, "priority": 3}, 2, "line 1: stream '{name}' has one priority"),
        ({"dq-export": 2}, 65, "use the newer one"),
    ],
    ids=["no stream", "no such priority", "newer"],
)
def test_what_cannot_be_imported_is_said_in_one_line(here, name, dq, tmp_path, line, code, says) -> None:
    here.publish(name, 0)
    (tmp_path / "in").write_text(json.dumps(line).replace("{name}", name))
    ended = dq("import", tmp_path / "in")
    assert (ended.code, ended.out, ended.err.count("\n")) == (code, "", 1)
    assert says.format(name=name) in ended.err


def test_without_a_broker_or_a_file_it_says_so(dq, here, tmp_path) -> None:
    assert dq("import", "-", "--data", tmp_path / "q").code == 69
    ended = dq("import", tmp_path / "none")
    assert (ended.code, ended.err) == (1, f"dq: {tmp_path / 'none'}: No such file or directory\n")
    assert list(tmp_path.iterdir()) == []


def test_two_imports_do_not_go_into_one_directory_at_once(here, file, dq, name) -> None:
    with hold(Layout(here.root).import_lock, 0.0, "it"):
        ended = dq("import", file, "--stream", f"{name}-b", "--create")
    assert (ended.code, f"pid {os.getpid()}" in ended.err) == (75, True)
    assert f"{name}-b" not in here.streams()


def test_delayed_records_and_dead_letters_come_along(here, name, dq, tmp_path) -> None:
    here.publish(name, "soon", delay=3_600)
    here.publish(name, "poison")
    with Consumer(here, name, sink=name, idle_timeout=0.1) as consumer:
        for task in consumer:
            task.dead_letter("no good")
    until(lambda: f"{name}-dlq" in here.streams())
    out = dq("export", name, f"{name}-dlq", "--sinks", "-o", tmp_path / "out")
    assert out.code == 0
    moved = (tmp_path / "out").read_bytes().replace(f'"{name}'.encode(), b'"moved' + name.encode())
    ended = dq("import", "-", "--create", lines=moved)
    assert (ended.code, "1 sinks are not made" in ended.err) == (0, True)
    assert ended.out == f"3 records imported into moved{name}, moved{name}-dlq\n"
    [waiting] = records(dq, f"moved{name}-later")
    assert (waiting["payload"], waiting["due"] - waiting["at"] > 3_500) == ("soon", True)
    [dead] = here.dlq(f"moved{name}").list()
    assert (dead.payload, dead.death.reason, dead.death.sink) == ("poison", "no good", f"moved{name}")
    assert dq("import", "-", lines=moved).out.endswith("3 were there already\n")


def test_an_import_that_was_killed_goes_on_where_it_was(here, name, dq, tmp_path) -> None:
    # Given an import of many records that is killed in the middle of it
    count, lines = 40_000, tmp_path / "in"
    lines.write_text("".join(f'{{"id":"{name}/0/{n}","stream":"{name}","payload":{n}}}\n' for n in range(count)))
    with subprocess.Popen(
        [*DQ, "import", str(lines), "--create"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as first:
        until(lambda: name in here.streams() and here.stream(name).stats().records)
        first.kill()
    there = here.stream(name).stats().records
    assert there < count
    # When it is done again
    ended = dq("import", lines, "--json")
    # Then each record is there once, in its order
    told = json.loads(ended.out)
    assert told["there_already"] >= there
    assert told["imported"] + told["there_already"] == count
    with here.reader(name, start="oldest", follow=False) as reader:
        assert [record.payload for record in reader] == list(range(count))

"""`dq export`: with a broker and without, of what is damaged, to a file that is whole or not there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dq import BrokerManager, Consumer, Publisher
from dq.embedded import PersistentQueue
from dq.log.format import seal

DQ = [sys.executable, "-c", "from dq.main import command; raise SystemExit(command())"]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """A data directory that no broker serves: `orders` of two buckets with a sink and a delayed record, `big` of segments."""
    root = tmp_path_factory.mktemp("dq") / "queue_data"
    with BrokerManager(root) as broker:
        broker.stream("orders", buckets=2)
        broker.stream("big", segment_bytes=4096)
        with Publisher(broker, "orders", batch_size=10) as publisher:
            publisher.publish_many(({"n": n} for n in range(100)), key=lambda payload: str(payload["n"]))
            publisher.publish("tomorrow", delay=86_400)
        with Publisher(broker, "big", batch_size=5) as publisher:
            publisher.publish_many("x" * 100 for _ in range(100))
        with Consumer(broker, "orders", sink="mailers", idle_timeout=0.2) as consumer:
            for task in consumer:
                if task.payload["n"] != 50:
                    task.ack()
    return root


def lines_of(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def segments(root: Path, stream: str) -> list[Path]:
    return sorted((root / "streams" / stream).glob("*/*.jsonl"))


def spoil(path: Path, what: bytes) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(what, b"?" * len(what), 1))


@pytest.fixture
def own(stopped, tmp_path) -> Path:
    """A copy of it, to be damaged."""
    return shutil.copytree(stopped, tmp_path / "queue_data")


def test_a_stream_is_written_with_and_without_a_broker(stopped, dq, here, name) -> None:
    header, *records = lines_of(dq("export", "orders", "--data", stopped).out)
    assert header["dq-export"] == 1
    assert [(each["name"], each["settings"]["buckets"]) for each in header["streams"]] == [("orders", 2)]
    assert sorted(each["payload"]["n"] for each in records[1:]) == list(range(100))
    assert (records[0]["id"], records[0]["payload"], records[0]["due"] > records[0]["at"]) == (
        "orders-later/0/0",
        "tomorrow",
        True,
    )
    assert {each["key"] for each in records[1:]} == {str(n) for n in range(100)}
    here.publish(name, b"\xff", topic="t", name="n", headers={"a": "b"})
    [_, record] = lines_of(dq("export", name).out)
    at = record.pop("at")
    assert isinstance(at, float)
    assert record == {
        "id": f"{name}/0/0", "stream": name, "topic": "t", "name": "n", "headers": {"a": "b"}, "base64": "/w==",
    }  # fmt: skip


def test_places_bound_it_on_both_sides(here, name, dq) -> None:
    with Publisher(here, name) as publisher:
        publisher.publish_many(range(10))

    def payloads(*options: str) -> list[int]:
        return [each["payload"] for each in lines_of(dq("export", name, *options).out)[1:]]

    assert payloads("--from", f"{name}/0/3", "--to", f"{name}/0/6") == [4, 5, 6]
    assert payloads("--to", "1h") == []
    assert payloads("--from", "1h", "--to", "newest") == list(range(10))
    assert payloads("--from", f"{name}=8") == [8, 9]
    here.stream(name).remove(f"{name}/0/9")
    assert payloads("--from", "oldest", "--to", "newest") == list(range(9))


def test_sinks_are_told_with_what_they_have_settled(stopped, dq) -> None:
    [sink] = lines_of(dq("export", "orders", "--sinks", "--data", stopped).out)[0]["sinks"]
    assert (sink["name"], sink["settings"]["max_attempts"], sink["paused"]) == ("mailers", 5, False)
    settled = sum(each["floor"] + sum(stop - first for first, stop in each["settled"]) for each in sink["streams"]["orders"])
    assert settled == 99


def test_a_file_is_there_as_a_whole_and_replaces_nothing(stopped, dq, tmp_path) -> None:
    file = tmp_path / "out.jsonl"
    ended = dq("export", "--all", "--data", stopped, "-o", file)
    assert (ended.code, ended.out) == (0, "")
    assert "201 records of 2 streams" in ended.err
    assert len(file.read_text().splitlines()) == 202
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    refused = dq("export", "orders", "--data", stopped, "-o", file)
    assert (refused.code, "--force" in refused.err) == (2, True)
    assert len(file.read_text().splitlines()) == 202
    assert dq("export", "orders", "--data", stopped, "-o", file, "--force").code == 0
    assert len(file.read_text().splitlines()) == 102
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_cannot_be_made_is_said_and_leaves_nothing(stopped, dq, tmp_path) -> None:
    ended = dq("export", "orders", "--data", stopped, "-o", tmp_path / "none" / "out")
    assert (ended.code, "No such file" in ended.err) == (1, True)
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_full_ends_it_with_74(stopped) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*DQ, "export", "--all", "--data", stopped], stdout=full, stderr=subprocess.PIPE, timeout=30, check=False
        )
    assert (done.returncode, done.stderr) == (74, b"dq: No space left on device\n")


@pytest.mark.parametrize(("stream", "segment"), [("big", 1), ("big", -1), ("orders", 0)])
def test_of_a_damaged_log_comes_what_lies_before_and_exit_code_65(own, dq, stream, segment) -> None:
    damaged = segments(own, stream)[segment]
    spoil(damaged, b"payload")
    ended = dq("export", stream, "--data", own, "-o", own / "out")
    assert ended.code == 65
    assert str(damaged) in ended.err
    assert "--salvage" in ended.err
    assert not (own / "out").exists()
    kept = lines_of((own / "out.partial").read_text())[1:]
    assert f"{len(kept)} records" in ended.err
    if stream == "big":  # all that lies before it
        assert [each["id"] for each in kept] == [f"big/0/{offset}" for offset in range(int(damaged.stem))]
    else:  # the other bucket, as a whole, and what waits
        assert {each["id"].rpartition("/")[0] for each in kept} == {"orders/1", "orders-later/0"}
        assert len(kept) == 1 + sum(line.count(b'"payload":') for line in segments(own, stream)[1].read_bytes().splitlines())


def test_an_end_that_was_not_confirmed_is_left_out_and_told(own, dq) -> None:
    (own / "streams" / "clean.json").unlink()  # its broker was killed
    torn = segments(own, "big")[-1]
    with torn.open("ab") as file:
        file.write(b'{"batch":100,"count":1,"by')
    ended = dq("export", "big", "--data", own)
    assert (ended.code, len(ended.out.splitlines())) == (0, 101)
    assert f"{torn}: the last 26 bytes" in ended.err


def test_a_stream_file_that_is_damaged_costs_its_stream_alone(own, dq) -> None:
    spoil(own / "streams" / "big" / "stream.json", b"uuid")
    ended = dq("export", "--all", "--data", own)
    assert (ended.code, "stream.json" in ended.err) == (65, True)
    assert {each["stream"] for each in lines_of(ended.out)[1:]} == {"orders"}


def test_nothing_is_written_into_a_directory_that_is_only_read(stopped, dq) -> None:
    before = {path: path.stat().st_mtime_ns for path in stopped.rglob("*")}
    for path in (stopped, stopped / "streams"):
        path.chmod(0o500)
    try:
        assert dq("export", "--all", "--sinks", "--data", stopped).code == 0
    finally:
        for path in (stopped, stopped / "streams"):
            path.chmod(0o700)
    assert {path: path.stat().st_mtime_ns for path in stopped.rglob("*")} == before


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "name streams, or say --all"),
        (["orders", "--all"], 2, "name streams, or say --all"),
        (["order"], 4, "did you mean 'orders'"),
        (["orders-later"], 2, "exported with it"),
        (["orders", "--from", "soon"], 2, "soon"),
        (["orders", "--from", "orders/0/1"], 2, "that one bucket"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_exported_is_said_in_one_line(stopped, dq, arguments, code, says) -> None:
    ended = dq("export", *arguments, "--data", stopped)
    assert (ended.code, ended.out) == (code, "")
    assert says in ended.err
    assert ended.err.count("\n") == 1


def test_where_there_is_no_data_directory_none_is_made(dq, tmp_path) -> None:
    for arguments in (["--all"], ["orders"]):
        ended = dq("export", *arguments, "--data", tmp_path / "none")
        assert (ended.code, ended.out, "no data directory" in ended.err) == (69, "", True)
    assert list(tmp_path.iterdir()) == []
    PersistentQueue(tmp_path / "queue").close()
    ended = dq("export", "--all", "--data", tmp_path / "queue")
    assert (ended.code, ended.out, "embedded queue" in ended.err) == (2, "", True)


def test_a_stream_that_its_broker_alone_can_read_costs_itself_alone(own, dq) -> None:
    described = (own / "streams" / "big" / "stream.json").read_bytes()
    line = json.loads(described)
    line["settings"] |= {"backend": "nowhere:Backend", "durability": "backend"}
    del line["crc"]
    (own / "streams" / "clean.json").unlink()
    (own / "streams" / "big" / "stream.json").write_bytes(seal(json.dumps(line, separators=(",", ":")).encode()[:-1])[0])
    ended = dq("export", "--all", "--data", own)
    assert (ended.code, "through the broker" in ended.err) == (2, True)
    assert len(ended.out.splitlines()) == 102


def test_ended_from_outside_it_leaves_no_file(own, monkeypatch, dq) -> None:
    def end(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("dq.transfer.export.header_line", end)
    (own / "there").mkdir()
    ended = dq("export", "orders", "--data", own, "-o", own / "there" / "out")
    assert ended.code == 128 + signal.SIGTERM
    assert list((own / "there").iterdir()) == []


def test_a_terminal_gets_no_escapes(here, name, dq, monkeypatch) -> None:
    nasty = "\x9b31m\u202e"
    here.publish(name, nasty)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    out = dq("export", name).out
    assert not set(out) & set(nasty) - set("31m")
    assert lines_of(out)[1]["payload"] == nasty
    assert os.environ.get("DQ_DIR")

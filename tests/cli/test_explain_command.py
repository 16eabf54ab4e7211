"""`dq explain` and `dq at`: the past of a record, and of a stream with its sinks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import datetime

import pytest

from dq import Consumer, Publisher
from stage import until

DQ = [sys.executable, "-c", "from dq.main import command; raise SystemExit(command())"]
NASTY = "\x1b[31mred\x1b[0m;\n# <b> Note over P0: x"


@pytest.fixture(scope="module")
def lived(broker) -> str:
    """A stream whose first record failed with a nasty error, was given up, replayed and acked; the last one is in no hand."""
    broker.sink("mailers", "orders", max_attempts=2)
    with Publisher(broker, "orders") as publisher:
        publisher.publish({"to": NASTY}, key="ada\x1b[2J", name="greet")
    with Consumer(broker, "orders", sink="mailers") as consumer:
        task = next(iter(consumer))
        task.extend(60)
        task.retry(after=0)
        task = next(iter(consumer))
        task.dead_letter(NASTY)
        consumer.flush()
        until(lambda: broker.dlq("orders").count() == 1)
        broker.dlq("orders").replay()
        next(iter(consumer)).ack(wait=True)
    broker.publish("orders", 3)
    return "orders"


def test_a_biography_is_printed_line_by_line_with_what_is_true_now(here, lived, dq) -> None:
    ended = dq("explain", "orders/0/0")
    assert (ended.code, ended.err) == (0, "")
    first, *lines = [line for line in ended.out.splitlines() if line]
    assert first.startswith("orders/0/0  key=ada\\u001b[2J  name=greet  also orders-dlq/0/0, orders/0/1")
    for words in (
        "published by p-",
        "leased to c-",
        "given 60 s more",
        "attempt 1 failed",
        "given up by c-",
        "replayed as",
        "acked",
    ):
        assert [line for line in lines if words in line], words
    assert f"(pid {os.getpid()})" in ended.out
    assert lines[-1].split()[:3] == ["mailers", "orders/0/1", "settled"]
    # What users wrote does not steer the terminal, and a payload is shown on demand
    assert "\x1b" not in ended.out
    assert '"to"' not in ended.out
    assert '"to"' in dq("explain", "orders/0/0", "--payload").out


def test_json_has_all_of_it(here, lived, dq) -> None:
    shown = json.loads(dq("explain", "orders/0/1", "--json", "--sink", "mailers").out)
    assert shown["id"] == "orders/0/1"
    assert [event["kind"] for event in shown["events"]][-2:] == ["leased", "acked"]
    assert "payload" not in shown
    assert json.loads(dq("explain", "orders/0/0", "--json", "--payload").out)["payload"] == {"to": NASTY}


def test_bytes_are_shown_as_base64_in_json(here, name, dq) -> None:
    here.publish(name, b"\xff\x00")
    assert json.loads(dq("explain", f"{name}/0/0", "--json", "--payload").out)["base64"] == "/wA="
    assert "payload \\xff\\u0000" in dq("explain", f"{name}/0/0", "--payload").out


def test_a_diagram_keeps_to_its_lines(here, lived, dq) -> None:
    ended = dq("explain", "orders/0/0", "--mermaid")
    lines = ended.out.splitlines()
    assert (ended.code, lines[0]) == (0, "sequenceDiagram")
    assert all(line.startswith("    ") for line in lines[1:])
    assert "\x1b" not in ended.out
    assert "<b>" not in ended.out
    assert (
        sum(line.startswith("    participant ") for line in lines) == 7
    )  # two publishers, their broker, 2 streams, sink, hand


def test_a_moment_is_printed_as_tables(here, lived, dq) -> None:
    ended = dq("at", "orders", "now")
    assert (ended.code, ended.err) == (0, "")
    assert "mailers        2        1" in ended.out
    assert json.loads(dq("at", "orders", "orders/0/2", "--json").out)["buckets"] == [{"bucket": 0, "first": 0, "end": 3}]
    assert dq("at", "orders", "2").out == dq("at", "orders", "orders/0/2").out
    long_ago = dq("at", "orders", "2001-01-31T09:00:00+01:00")
    assert (long_ago.code, "it began at" in long_ago.err) == (0, True)


def test_who_had_what_then_is_shown_with_what_it_had_burned(here, name, dq) -> None:
    with Publisher(here, name) as publisher:
        publisher.publish_many([1, 2, 3])
    with Consumer(here, name, sink="w", prefetch=3) as consumer:
        tasks = iter(consumer)
        next(tasks).retry(after=0)
        consumer.flush()
        held = next(tasks)
        out = dq("at", name, "now", "--sink", "w").out
        held.release()
    [row] = [line.split() for line in out.splitlines() if line.startswith("c-")]
    assert row[1:3] == [str(os.getpid()), "w"]
    assert row[4].startswith(f"{name}/0/1")
    assert [line.split()[:3] for line in out.splitlines() if line.startswith(f"{name}/0/0")] == [[f"{name}/0/0", "w", "1"]]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["explain", "orders"], 2, "no id of a record"),
        (["explain", "orders/0/99"], 4, "ends at offset 3"),
        (["explain", "none/0/0"], 4, "no stream 'none'"),
        (["explain", "orders/0/0", "--sink", "none"], 4, "no sink 'none'"),
        (["explain", "orders/0/0", "--json", "--mermaid"], 2, "--mermaid"),
        (["explain", "orders/0/0", "--payload", "--mermaid"], 2, "--payload"),
        (["explain", "orders/0/0", "--data", "/none/at/all"], 4, "/none/at/all"),
        (["at", "none", "1h"], 4, "no stream 'none'"),
        (["at", "orders", "oldest"], 2, "no moment"),
        (["at", "orders", "whenever"], 2, "whenever"),
        (["at", "orders", "orders=3"], 2, "no moment"),
        (["at", "orders", "99"], 4, "orders/0/99"),
        (["at", "orders", "others/0/0"], 2, "no record of stream"),
        (["at", "orders", "now", "--sink", "none"], 4, "no sink 'none'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_told_is_said_in_one_line(here, lived, dq, arguments, code, says) -> None:
    ended = dq(*arguments)
    assert (ended.code, ended.out) == (code, "")
    assert says in ended.err
    assert ended.err.count("\n") == 1


def test_a_stopped_broker_a_read_only_directory_and_a_damaged_log(here, lived, dq, tmp_path) -> None:
    # Given a copy that nobody serves and nobody may write to
    root = tmp_path / "copy"
    shutil.copytree(here.root, root, ignore=shutil.ignore_patterns("*.sock"))
    log = max((root / "sinks" / "mailers").glob("*.jsonl"))
    for path in root.rglob("*"):
        path.chmod(0o500 if path.is_dir() else 0o400)
    # Then the same is told of it
    assert dq("explain", "orders/0/0", "--data", root) == dq("explain", "orders/0/0")
    # And of a damaged one, where the damage is
    log.chmod(0o600)
    log.write_bytes(log.read_bytes().replace(b'"lease"', b'"laese"', 1))
    for arguments in (["explain", "orders/0/0"], ["at", "orders", "now"]):
        ended = dq(*arguments, "--data", root)
        assert (ended.code, ended.out) == (65, "")
        assert f"{log}, byte " in ended.err
    for path in root.rglob("*"):
        path.chmod(0o700)


def test_an_empty_directory_has_no_streams_and_stays_empty(dq, tmp_path) -> None:
    for arguments in (["explain", "orders/0/0"], ["at", "orders", "now"]):
        assert dq(*arguments, "--data", tmp_path).code == 4
    assert list(tmp_path.iterdir()) == []


def test_in_a_pipe_whose_reader_leaves_it_ends_quietly(here, lived) -> None:
    begun = subprocess.Popen([*DQ, "explain", "orders/0/0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    begun.stdout.close()
    _, err = begun.communicate(timeout=30)
    assert (begun.returncode, err) == (141, b"")


def test_times_are_shown_in_the_zone_of_who_asks(here, lived, dq) -> None:
    at = json.loads(dq("explain", "orders/0/0", "--json").out)["events"][0]["at"]
    local = datetime.fromtimestamp(at).astimezone().isoformat(sep=" ", timespec="milliseconds")[:23]
    assert local in dq("explain", "orders/0/0").out

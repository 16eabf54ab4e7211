"""publish, consume and tail: the shell's way to a stream."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from dq import Consumer, Publisher

DQ = [sys.executable, "-c", "from dq.main import command; raise SystemExit(command())"]


def payloads(broker, stream: str) -> list:
    with Consumer(broker, stream, sink=f"{stream}-all", idle_timeout=0.3) as consumer:
        return [(task.payload, task.ack())[0] for task in consumer]


def test_a_payload_is_published_with_its_labels_and_its_id_is_printed(here, name, dq) -> None:
    assert dq("publish", name, '{"to":"ada"}', "--key", "k", "--topic", "t", "--name", "n", "-H", "a:b") == (
        0,
        f"{name}/0/0\n",
        "",
    )
    shown = json.loads(dq("tail", name, "--json").out)
    assert {key: value for key, value in shown.items() if key != "at"} == {
        "id": f"{name}/0/0", "key": "k", "topic": "t", "name": "n", "headers": {"a": "b"}, "payload": {"to": "ada"},
    }  # fmt: skip


def test_each_line_of_standard_input_is_a_record(here, name, dq) -> None:
    assert dq("publish", name, "-", lines=b'1\n\n{"a":2}\n"x"').out == "3 records published\n"
    assert payloads(here, name) == [1, {"a": 2}, "x"]


def test_text_is_published_as_it_is(here, name, dq) -> None:
    dq("publish", name, "--text", lines=b"GET /\nno json {\n")
    assert payloads(here, name) == ["GET /", "no json {"]


def test_a_line_that_is_no_json_ends_it_and_says_what_was_published(here, name, dq) -> None:
    ended = dq("publish", name, "-", lines=b"1\n2\nx\n4\n")
    assert ended.code == 2
    assert "2 records were published before this" in ended.err
    assert "line 3 is not JSON" in ended.err
    assert payloads(here, name) == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["publish", "no/name", "1"], 2, "cannot name a stream"),
        (["publish", "{name}", "1", "-H", "x"], 2, "NAME:TEXT"),
        (["publish", "{name}-none", "1", "--no-create"], 4, "there is no stream"),
        (["publish", "{name}", "1", "--delay", "soon"], 2, "soon"),
        (["tail", "{name}-none"], 4, "there is no stream"),
        (["tail", "{name}", "--format", "%z"], 2, "%z"),
        (["consume", "--sink", "{name}-none"], 4, "{name}-none"),
        (["consume", "{name}", "--sink", "s", "--exec", "x", "--no-ack"], 2, "--no-ack"),
        (["consume", "{name}"], 2, "--sink"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_said_in_one_line(here, name, dq, arguments, code, says) -> None:
    here.publish(name, 0)
    ended = dq(*[each.format(name=name) for each in arguments])
    assert (ended.code, ended.out) == (code, "")
    assert says.format(name=name) in ended.err
    assert ended.err.count("\n") == 1


def test_without_a_broker_they_end_with_69(tmp_path, dq) -> None:
    for arguments in (["publish", "s", "1"], ["consume", "s", "--sink", "w"], ["streams"], ["sinks"], ["status"]):
        ended = dq(*arguments, "--data", tmp_path)
        assert ended.code == 69
        assert "serve" in ended.err


def test_a_task_is_acked_once_its_line_is_written(here, name, dq) -> None:
    dq("publish", name, "-", lines=b"1\n2\n3\n")
    assert dq("consume", name, "--sink", name, "--count", "2") == (0, "1\n2\n", "")
    assert dq("consume", "--sink", name, "--timeout", "0.3s") == (0, "3\n", "")
    assert dq("consume", "--sink", name, "--timeout", "0.1").code == 3


def test_no_ack_gives_back_without_burning_an_attempt(here, name, dq) -> None:
    dq("publish", name, "-", lines=b"1\n2\n")
    ended = dq("consume", name, "--sink", name, "--no-ack", "--timeout", "0.3", "--format", "%s")
    assert (ended.code, ended.out) == (0, "1\n2\n")
    assert sorted(dq("consume", "--sink", name, "--timeout", "0.3", "--format", "%s %a").out.split("\n")) == ["", "1 1", "2 1"]


def test_a_command_runs_for_each_task_and_its_exit_code_settles(here, name, dq) -> None:
    dq("publish", name, "-", lines=b'"good"\n"bad"\n')
    here.sink(name, name, max_attempts=2)
    script = """read line; echo "$line $DQ_ATTEMPT"; [ "$line" = '"good"' ] || { echo broken >&2; exit 3; }"""
    command = [*DQ, "consume", "--sink", name, "--exec", script, "--timeout", "0.5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert sorted(done.stdout.splitlines()) == ['"bad" 1', '"bad" 2', '"good" 1']
    assert done.stderr.splitlines().count("broken") == 2
    stats = here.sink(name).stats()
    assert (stats.settled, stats.dead_lettered) == (2, 1)
    dead = json.loads(dq("tail", f"{name}-dlq", "--json").out)
    assert dead["payload"] == "bad"
    assert dead["headers"]["dq-error"].startswith("exit code 3: broken")


def test_tail_shows_the_last_ones_or_those_from_a_place_on(here, name, dq) -> None:
    here.stream(name, buckets=1)
    with Publisher(here, name) as publisher:
        publisher.publish_many(range(30))
    assert dq("tail", name, "--format", "%s ").out == "".join(f"{n} " for n in range(20, 30))
    assert dq("tail", name, "-n", "2", "--format", "%s ").out == "28 29 "
    assert dq("tail", name, "--from", "oldest", "-n", "2", "--format", "%o:%s\\n").out == "0:0\n1:1\n"
    assert dq("tail", name, "--from", f"{name}/0/27", "--format", "%i ").out == f"{name}/0/28 {name}/0/29 "
    assert len(dq("tail", name, "--from", "1h").out.splitlines()) == 30
    assert dq("tail", name, "--from", "newest").out == ""


def test_tail_shows_what_is_left_where_some_of_the_last_ones_were_trimmed(here, name, dq) -> None:
    with Publisher(here, name) as publisher:
        publisher.publish_many(range(12))
    here.stream(name).trim(max_records=3)
    assert dq("tail", name, "--format", "%s ") == (0, "9 10 11 ", "")
    assert dq("tail", name, "-n", "2", "--format", "%s ").out == "10 11 "
    here.stream(name).trim("newest")
    assert dq("tail", name) == (0, "", "")


def test_the_newest_of_several_buckets_come_in_the_order_of_their_times(here, name, dq) -> None:
    here.stream(name, buckets=3)
    for n in range(9):
        here.publish(name, n, key=str(n))
    assert dq("tail", name, "-n", "4", "--format", "%s ").out == "5 6 7 8 "


def test_what_steers_a_terminal_is_escaped_and_stays_json(here, name, dq) -> None:
    nasty = {"a": "\x1b[2J\x9b31m\u202e\x7f"}
    here.publish(name, nasty, headers={"x": "\x1b]0;t\x07"}, name="\x1b[31m")
    for arguments in (["--json"], [], ["--format", "%n %h %s\\n"]):
        out = dq("tail", name, *arguments).out
        assert not set(out) & set("\x1b\x9b\u202e\x7f\x07")
    assert json.loads(dq("tail", name, "--json").out)["payload"] == nasty


def test_pipes_work(here, name) -> None:
    """`cat lines | dq publish s - ; dq tail s --json | jq`, and `| head` ends it without a word."""
    publish = subprocess.run([*DQ, "publish", name, "-"], input=b"1\n" * 1_000, capture_output=True, timeout=30, check=True)
    assert publish.stdout == b"1,000 records published\n"
    tail = " ".join(f"'{part}'" for part in [*DQ, "tail", name, "--from", "oldest", "--json"])
    piped = subprocess.run(f"{tail} | head -n 2 | jq -c .payload", shell=True, capture_output=True, timeout=30, check=True)
    assert (piped.stdout, piped.stderr) == (b"1\n1\n", b"")


def test_streams_and_sinks_are_listed(here, name, dq) -> None:
    here.publish(name, 1)
    here.sink(name, name)
    here.sink(name).pause()
    row = next(line.split() for line in dq("streams").out.splitlines() if line.startswith(f"{name} "))
    assert row[1:3] == ["1", "1"]
    row = next(line.split() for line in dq("sinks").out.splitlines() if line.startswith(f"{name} "))
    assert row[1:3] + row[-1:] == [name, "1", "paused"]
    found = [json.loads(line) for line in dq("streams", "--json").out.splitlines()]
    assert [each["records"] for each in found if each["name"] == name] == [1]
    found = [json.loads(line) for line in dq("sinks", "--json").out.splitlines()]
    assert [each["waiting"] for each in found if each["name"] == name] == [1]


def test_status_is_one_screen_or_one_object(here, name, dq) -> None:
    here.publish(name, 1)
    assert f"pid {here.manager_pid}" in dq("status").out
    assert json.loads(dq("status", "--json").out)["pid"] == here.manager_pid

"""stream, sink, check and stop: what an operator does."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest

import dq as library
from dq import BrokerManager, Publisher

DQ = [sys.executable, "-c", "from dq.main import command; raise SystemExit(command())"]


def test_a_stream_is_made_shown_trimmed_and_destroyed(here, name, dq) -> None:
    assert dq("stream", "create", name, "--set", "buckets=2", "--set", "max_age=7d", "--set", "ttl_sliding=false").code == 0
    assert here.stream(name).settings.buckets == 2
    assert here.stream(name).settings.max_age == 7 * 86_400
    with Publisher(here, name) as publisher:
        publisher.publish_many(range(100), key=str)
    shown = dq("stream", "show", name)
    assert "buckets=2" in shown.out
    assert "100" in shown.out
    assert json.loads(dq("stream", "show", name, "--json").out)["records"] == 100
    assert dq("stream", "remove", name, f"{name}/0/0").out == "1 records removed\n"
    assert dq("stream", "remove", name, f"{name}/0/0").code == 4
    assert dq("stream", "trim", name, "--max-records", "10").code == 2  # nobody can be asked
    assert dq("stream", "trim", name, "--max-records", "10", "--yes").code == 0
    assert here.stream(name).stats().records == 10
    assert dq("stream", "trim", name, "--before", "newest", "--yes").out == "10 records trimmed\n"
    assert dq("stream", "destroy", name, "--yes").code == 0
    assert dq("stream", "show", name).code == 4
    assert name not in here.streams()


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ("buckets", "NAME=VALUE"),
        ("colour=red", "settings are backend"),
        ("buckets=two", "whole number"),
        ("buckets=0", "buckets"),
        ("ttl_sliding=maybe", "true or false"),
        ("max_age=soon", "time span"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(here, name, dq, wish, says) -> None:
    ended = dq("stream", "create", name, "--set", wish)
    assert ended.code == 2
    assert says in ended.err
    assert name not in here.streams()


def test_a_sink_is_shown_moved_paused_and_destroyed(here, name, dq) -> None:
    dq("publish", name, "-", lines=b"1\n2\n3\n")
    dq("consume", name, "--sink", name, "--timeout", "0.3")
    assert json.loads(dq("sink", "show", name, "--json").out)["settled"] == 3
    assert "settled" in dq("sink", "show", name).out
    assert dq("sink", "pause", name).code == 0
    assert "paused" in dq("sink", "show", name).out
    assert dq("sink", "resume", name).code == 0
    assert dq("sink", "seek", name, f"{name}/0/1", "--yes").code == 0
    assert dq("consume", "--sink", name, "--timeout", "0.3").out == "3\n"
    assert dq("sink", "reset", name, "--yes").code == 0
    assert dq("consume", "--sink", name, "--timeout", "0.3").out == "1\n2\n3\n"
    assert dq("sink", "destroy", name, "--yes").code == 0
    assert dq("sink", "show", name).code == 4


def test_a_terminal_is_asked_before_anything_is_lost(here, name) -> None:
    here.publish(name, 1)
    ours, theirs = pty.openpty()
    for answer, code, left in ((b"n\n", 1, True), (b"y\n", 0, False)):
        os.write(ours, answer)
        done = subprocess.run(
            [*DQ, "stream", "destroy", name], stdin=theirs, capture_output=True, text=True, timeout=30, check=False
        )
        assert (done.returncode, name in here.streams()) == (code, left)
        assert "destroy stream" in done.stderr
    os.close(ours)
    os.close(theirs)


def test_check_speaks_as_monitoring_systems_want_it(here, name, dq, tmp_path) -> None:
    dq("publish", name, "-", lines=b"1\n2\n3\n")
    here.sink(name, name)
    assert dq("check", "--waiting", "3,5").code == 1
    ended = dq("check", "--waiting", "1,3")
    assert (ended.code, ended.out[:13]) == (2, "DQ CRITICAL -")
    assert f"3 records wait in sink {name}" in ended.out
    assert dq("check", "--data", tmp_path).code == 2
    assert dq("check", "--waiting", "x").code == 2


def test_check_is_content_with_a_broker_that_is_well(tmp_path, dq) -> None:
    with BrokerManager(tmp_path / "q") as broker:
        broker.publish("s", 1)
        ended = dq("check", "--data", tmp_path / "q")
    assert (ended.code, ended.out) == (0, f"DQ OK - {tmp_path / 'q'} is served, nothing is wrong\n")


def test_stop_returns_once_the_broker_is_gone(tmp_path, dq) -> None:
    library.connect(tmp_path / "q", start=True).close()
    ended = dq("stop", tmp_path / "q")
    assert ended.code == 0
    assert "has stopped" in ended.out
    assert dq("status", "--data", tmp_path / "q").code == 69
    assert dq("stop", tmp_path / "q").code == 69


def test_what_changes_something_says_so_in_json_too(here, name, dq) -> None:
    def told(*arguments: object) -> dict[str, object]:
        ended = dq(*arguments, "--json")
        assert (ended.code, ended.err) == (0, "")
        return json.loads(ended.out)

    assert told("stream", "create", name, "--set", "buckets=2")["settings"]["buckets"] == 2
    with Publisher(here, name) as publisher:
        ids = [receipt.id for receipt in publisher.publish_many(range(4), key="k")]
    here.sink(name, name)
    assert told("stream", "remove", name, ids[2]) == {"stream": name, "removed": 1}
    assert told("stream", "trim", name, "--max-records", 1, "--yes")["trimmed"] == 2
    assert told("sink", "pause", name) == {"sink": name, "paused": True}
    assert told("sink", "resume", name) == {"sink": name, "paused": False}
    assert told("sink", "seek", name, "newest", "--yes") == {"sink": name, "where": "newest"}
    assert told("sink", "reset", name, "--yes") == {"sink": name, "where": "oldest"}
    assert told("sink", "destroy", name, "--yes") == {"sink": name, "destroyed": True}
    assert told("sink", "destroy", name, "--if-exists") == {"sink": name, "destroyed": False}
    assert told("stream", "destroy", name, "--yes") == {"stream": name, "destroyed": True}
    assert told("stream", "destroy", name, "--if-exists") == {"stream": name, "destroyed": False}


def test_stop_and_check_say_it_in_json_too(tmp_path, dq) -> None:
    with library.connect(tmp_path / "q", start=True) as broker:
        pid = broker.manager_pid
    assert json.loads(dq("check", "--data", tmp_path / "q", "--json").out) == {
        "status": "OK", "root": str(tmp_path / "q"), "found": [],
    }  # fmt: skip
    assert json.loads(dq("stop", tmp_path / "q", "--json").out) == {"root": str(tmp_path / "q"), "pid": pid}
    ended = dq("check", "--data", tmp_path / "q", "--json")
    assert (ended.code, json.loads(ended.out)["status"]) == (2, "CRITICAL")

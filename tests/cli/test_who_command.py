"""`dq who`: who holds what, and taking it back."""

from __future__ import annotations

import json
import os

import pytest

from dq import Consumer


@pytest.fixture
def held(here, name):
    """A record in a consumer's hand, with a note that would steer a terminal."""
    record = here.publish(name, {"n": 1})
    with Consumer(here, name, sink=f"{name}s", idle_timeout=2) as consumer:
        loop = iter(consumer)
        task = next(loop)
        task.extend(600, note="page 3\x1b[31m\nof 9")
        yield record, consumer
        task.release()


def test_it_shows_who_holds_what_with_its_process_and_note(held, name, dq) -> None:
    record, consumer = held
    shown = dq("who", f"{name}s")
    header, lease, _, _, process = shown.out.splitlines()
    assert header.split() == ["SINK", "RECORDS", "OPEN", "CONSUMER", "HELD", "LEFT", "ATTEMPT", "NOTE"]
    assert lease.split()[:4] == [f"{name}s", record.id, "1", consumer.consumer_id]
    assert " min " in lease, "an extension is not renewed"
    assert "page 3" in lease
    assert process.split()[:2] == [consumer.consumer_id, str(os.getpid())]
    assert process.endswith(" connected")
    assert "\x1b" not in shown.out
    [told] = [json.loads(line) for line in dq("who", "--json", "--consumer", consumer.consumer_id).out.splitlines()]
    assert (told["id"], told["pid"], told["attempt"], told["state"]) == (record.id, os.getpid(), 1, "connected")
    assert told["started"] < told["since"] < told["until"]
    assert told["note"].startswith("page 3")
    assert "\x1b" not in dq("who", "--json").out


def test_a_name_is_a_sink_or_a_stream(held, here, name, dq) -> None:
    record, _ = held
    for arguments in ((name,), (f"{name}s",), ("--stream", name), ("--sink", f"{name}s"), (name, "--sink", f"{name}s")):
        assert record.id in dq("who", *arguments).out
    here.sink(name, name)
    both = dq("who", name)
    assert both.code == 2
    assert f"say --sink {name} or --stream {name}" in both.err
    assert record.id not in dq("who", "--sink", name).out
    assert record.id in dq("who", "--stream", name).out
    for arguments in ((f"{name}x",), ("--sink", f"{name}x"), ("--stream", f"{name}x"), (f"{name}x", "--sink", name)):
        missing = dq("who", *arguments)
        assert missing.code == 4
        assert "did you mean" in missing.err


def test_the_rest_is_counted(here, name, dq) -> None:
    for number in range(3):
        here.publish(name, number)
    with Consumer(here, name, sink=name, prefetch=1, idle_timeout=2) as one, Consumer(here, sink=name, prefetch=1) as two:
        loops = iter(one), iter(two)
        tasks = [next(loop) for loop in loops]
        assert dq("who", "--sink", name).out.count(" s, renewed ") == 2
        shown = dq("who", "--sink", name, "-n", "1", "--json")
        assert len(shown.out.splitlines()) == 1
        assert "1 leases more" in shown.err
        for task in tasks:
            task.ack()


def test_records_are_taken_back_once_that_is_said(held, here, name, dq) -> None:
    record, _ = held
    refused = dq("who", "--release", f"{name}s", record.id)
    assert refused.code == 2
    assert "say --yes" in refused.err
    assert len(here.who(f"{name}s")) == 1
    assert dq("who", "--release", f"{name}s", record.id, "--yes").out == "1 records taken back\n"
    assert len(here.who(f"{name}s")) == 0
    again = dq("who", "--release", f"{name}s", record.id, "--yes")
    assert again.code == 4
    assert "nobody has them in hand" in again.err


def test_all_that_a_consumer_has_is_taken_back(held, here, name, dq) -> None:
    _, consumer = held
    done = dq("who", "--release", f"{name}s", "--consumer", consumer.consumer_id, "--yes")
    assert (done.code, done.out) == (0, "1 records taken back\n")
    assert dq("who", "--release", f"{name}s", "--consumer", "nobody", "--yes").code == 4


def test_an_ordered_sink_refuses_what_would_reach_nobody(here, name, dq) -> None:
    ids = [here.publish(name, number).id for number in range(2)]
    with Consumer(here, name, sink=name, ordered=True, prefetch=2, idle_timeout=2) as consumer:
        loop = iter(consumer)
        next(loop)
        refused = dq("who", "--release", name, ids[1], "--yes")
        assert refused.code == 75
        assert f"Take {ids[0]} back" in refused.err
        assert dq("who", "--release", name, ids[0], "--yes").out == "2 records taken back\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--release"], "needs a sink"),
        (["--release", "s"], "ids of records, or a --consumer"),
        (["--release", "s", "s/0/1", "--consumer", "c"], "one of both"),
        (["--release", "s", "seven"], "no id of a record"),
        (["s", "s/0/1"], "--release alone"),
        (["x", "--sink", "a", "--stream", "b"], "leave one of the three out"),
    ],
)
def test_what_makes_no_sense_is_refused(here, dq, arguments, says) -> None:
    ended = dq("who", *arguments)
    assert ended.code == 2
    assert says in ended.err


def test_without_a_broker_it_says_so(tmp_path, dq) -> None:
    ended = dq("who", "--data", tmp_path / "queue_data")
    assert (ended.code, ended.out) == (69, "")
    assert not (tmp_path / "queue_data").exists()

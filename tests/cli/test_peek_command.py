"""`dq peek`: what a sink would hand out next, and what is in a stream; nothing is taken."""

from __future__ import annotations

import json
import os
import shutil
import time

import pytest

from dq import BrokerManager, Consumer
from stage import Child, kill, sink_of, until


def peeked(dq, *arguments):
    """What `--json` tells, a dict a record."""
    ended = dq("peek", *arguments, "--json")
    return [json.loads(line) for line in ended.out.splitlines()]


def ready(dq, *arguments):
    return [each["payload"] for each in peeked(dq, *arguments) if each["state"] == "ready"]


def taken(here, sink, count):
    """The payloads of so many tasks that a consumer is really handed, one by one."""
    with Consumer(here, sink=sink, prefetch=1, idle_timeout=2) as consumer:
        found = []
        for task in consumer:
            found.append(task.payload)
            task.ack()
            if len(found) == count:
                break
    return found


def test_what_is_ready_is_what_a_consumer_gets_and_nothing_is_taken(here, name, dq) -> None:
    here.sink(f"{name}s", name)
    for number in range(5):
        here.publish(name, number, key="k")
    assert ready(dq, f"{name}s", "-n", "3") == [0, 1, 2]
    assert ready(dq, f"{name}s") == [0, 1, 2, 3, 4]
    assert taken(here, f"{name}s", 2) == [0, 1]
    assert ready(dq, f"{name}s") == [2, 3, 4]
    shown = dq("peek", f"{name}s")
    assert (shown.code, shown.err) == (0, "")
    assert [line.split()[:2] for line in shown.out.splitlines()[1:]] == [["ready", "1"]] * 3
    assert dq("peek", f"{name}s", "--format", "%i %k %s\\n").out.splitlines()[0] == f"{name}/0/2 k 2"
    assert taken(here, f"{name}s", 3) == [2, 3, 4]
    empty = dq("peek", f"{name}s")
    assert (empty.code, empty.out) == (3, "")
    assert "settled all there is" in empty.err


def test_what_a_sink_does_not_want_is_not_shown(here, name, dq) -> None:
    """Other topics, what has expired, what was removed, and what is for one other sink."""
    here.sink(f"{name}s", name, topic="a")
    other = here.sink(f"{name}o", name, max_attempts=1)
    here.publish(name, "first", topic="a")
    here.publish(name, "not mine", topic="b")
    here.publish(name, "over", topic="a", expires=0.001)
    gone = here.publish(name, "removed", topic="a")
    here.publish(name, "last", topic="a")
    here.stream(name).remove(gone.id)
    with Consumer(here, sink=other.name, idle_timeout=2) as consumer:
        next(iter(consumer)).dead_letter("no")
    until(lambda: here.dlq(name).count(), what="it is a dead letter")
    assert here.dlq(name).replay() == 1
    assert ready(dq, f"{name}s") == ["first", "last"]
    assert "first" in ready(dq, other.name), "replayed for it alone"
    assert taken(here, f"{name}s", 2) == ["first", "last"]


def test_the_highest_priority_comes_first(here, name, dq) -> None:
    here.stream(name, priorities=6)
    here.sink(f"{name}s", name)
    here.publish(name, "low")
    here.publish(name, "high", priority=5)
    assert ready(dq, f"{name}s") == ["high", "low"] == taken(here, f"{name}s", 2)


def test_what_waits_says_for_what(here, name, dq) -> None:
    for number in range(3):
        here.publish(name, number)
    with Consumer(here, name, sink=f"{name}s", prefetch=1, idle_timeout=2) as consumer:
        loop = iter(consumer)
        next(loop).retry(after=50, error="boom\x1b[31m")
        held = next(loop)
        assert until(lambda: sink_of(here, f"{name}s")["retried"], what="the retry is heard") == 1
        found = peeked(dq, f"{name}s")
        assert [(each["state"], each["payload"], each["attempt"]) for each in found] == [
            ("ready", 2, 1), ("retry", 0, 2), ("in hand", 1, 1),
        ]  # fmt: skip
        retried, leased = found[1:]
        assert retried["last_error"].startswith("boom")
        assert time.time() < retried["until"] < time.time() + 51
        assert (leased["consumer"], leased["pid"]) == (consumer.consumer_id, os.getpid())
        assert leased["since"] < time.time() < leased["until"]
        shown = dq("peek", f"{name}s").out
        assert "retry in " in shown
        assert f"in hand of {consumer.consumer_id} (pid {os.getpid()}), " in shown
        assert "\x1b" not in shown + dq("peek", f"{name}s", "--json").out
        held.ack()


DIES = """
import dq
from dq import Consumer
with dq.connect(sys.argv[1]) as broker:
    with Consumer(broker, sink=sys.argv[2], prefetch=1) as consumer:
        loop = iter(consumer)
        say("has", next(loop).payload)
        heard()
"""


def test_what_a_consumer_died_of_is_ready_alone(here, name, dq) -> None:
    here.sink(f"{name}s", name)
    for number in range(2):
        here.publish(name, number)
    with Child(DIES, here.root, f"{name}s") as child:
        assert child.hear() == ["has", 0]
        kill(child.pid)
    until(lambda: sink_of(here, f"{name}s")["lost"], what="the loss is heard of")
    found = [(each["state"], each["payload"], each["attempt"]) for each in peeked(dq, f"{name}s")]
    assert found == [("alone", 0, 2), ("ready", 1, 1)]
    assert dq("peek", f"{name}s").out.splitlines()[1].startswith("ready, alone ")


def test_an_ordered_sink_has_nothing_ready_behind_what_waits(here, name, dq) -> None:
    for number in range(2):
        here.publish(name, number)
    with Consumer(here, name, sink=f"{name}s", ordered=True, idle_timeout=2) as consumer:
        loop = iter(consumer)
        next(loop).retry(after=50)
        until(lambda: sink_of(here, f"{name}s")["retried"], what="the retry is heard")
        assert [each["state"] for each in peeked(dq, f"{name}s")] == ["retry"]


def test_a_paused_sink_says_so_and_delayed_records_are_spoken_of(here, name, dq) -> None:
    sink = here.sink(f"{name}s", name)
    here.publish(name, 1)
    here.publish(name, 2, delay=3600)
    sink.pause()
    until(lambda: here.stats()["consumer_broker"]["later"].get(name, {}).get("next_due"), what="the delay is heard of")
    said = dq("peek", f"{name}s").err
    assert "paused" in said
    assert f"1 delayed records of {name} are still to come, the next in " in said
    [delayed] = peeked(dq, f"{name}-later")
    assert delayed["state"] == "delayed"
    assert delayed["until"] > time.time() + 3500
    assert "delayed, " in dq("peek", f"{name}-later").out


def test_a_stream_shows_its_oldest_or_its_newest(here, name, dq) -> None:
    for number in range(12):
        here.publish(name, number)
    assert [each["payload"] for each in peeked(dq, name)] == list(range(10))
    assert [each["payload"] for each in peeked(dq, name, "--newest", "-n", "2")] == [10, 11]
    assert dq("peek", name, "-n", "1").out.splitlines()[1].startswith("committed  ")
    here.stream(f"{name}e")
    assert dq("peek", f"{name}e").code == 3
    here.sink(name, name)
    both = dq("peek", name)
    assert both.code == 2
    assert f"say --sink {name} or --stream {name}" in both.err
    assert ready(dq, "--sink", name, "-n", "1") == [0]
    assert dq("peek", "--stream", name, "--format", "%o").out == "0123456789"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ([], 2, "name one sink or one stream"),
        (["a", "--sink", "b"], 2, "name one sink or one stream"),
        (["a", "--json", "--format", "%s"], 2, "choose one of"),
        (["nowhere-at-all"], 4, "there is no sink and no stream"),
        (["--sink", "nowhere-at-all"], 4, "there is no sink"),
    ],
)
def test_what_makes_no_sense_is_refused(here, dq, arguments, code, says) -> None:
    ended = dq("peek", *arguments)
    assert (ended.code, ended.out) == (code, "")
    assert says in ended.err


def test_a_stopped_broker_a_read_only_a_damaged_and_a_missing_directory(tmp_path, dq, monkeypatch) -> None:
    root = tmp_path / "queue_data"
    with BrokerManager(root) as broker:
        for number in range(3):
            broker.publish("orders", number)
        with Consumer(broker, "orders", sink="mailers", idle_timeout=2) as consumer:
            next(iter(consumer)).ack()
    assert ready(dq, "mailers", "-d", root) == [1, 2]
    assert [each["payload"] for each in peeked(dq, "orders", "-d", root)] == [0, 1, 2]
    assert dq("peek", "mailers", "--newest", "-d", root).code == 2
    # Nothing is written for it
    for path in [*root.rglob("*"), root]:
        path.chmod(0o500 if path.is_dir() else 0o400)
    assert ready(dq, "mailers", "-d", root) == [1, 2]
    for path in [root, *root.rglob("*")]:
        path.chmod(0o700 if path.is_dir() else 0o600)
    # Damage is named by its file
    [log] = (root / "sinks" / "mailers").glob("*.jsonl")
    content = bytearray(log.read_bytes())
    content[len(content) // 2] ^= 1
    log.write_bytes(content)
    ended = dq("peek", "mailers", "-d", root)
    assert (ended.code, ended.out) == (65, "")
    assert str(log) in ended.err
    shutil.rmtree(root)
    missing = dq("peek", "mailers", "-d", root)
    assert missing.code == 4
    assert not root.exists()

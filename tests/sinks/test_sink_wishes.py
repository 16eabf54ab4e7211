"""What nobody can do with a sink is refused in words, and changes nothing."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

import pytest
from sink_bench import publish, taken

from dq import Consumer, DqError, InvalidName, InvalidSetting, UnknownSink

BAD_STARTS = ["", "latest", "s/0", "s/0/-1", "s/a/1", "s=", "s=1;s=2", "2026-11-25", "oldest\n", 7, None, datetime(2026, 1, 1)]


@pytest.mark.parametrize("start", BAD_STARTS, ids=repr)
def test_a_start_that_is_none_is_refused_by_what_was_said(broker, name, start) -> None:
    sink = broker.sink(name, name)
    with pytest.raises(InvalidSetting, match="start"):
        sink.seek(start)
    if start is not None:
        with pytest.raises(InvalidSetting, match="start"):
            broker.sink(f"{name}-new", name, start=start)
        assert f"{name}-new" not in broker.sinks()


def test_an_id_is_a_place_in_one_bucket_alone(broker, name) -> None:
    broker.stream(name, buckets=2)
    ids = publish(broker, name, range(2), key="k")
    with pytest.raises(InvalidSetting, match=f"bucket . of stream '{name}' alone"):
        broker.sink(name, name, start=ids[0])
    assert name not in broker.sinks()
    broker.sink(name, name)
    with pytest.raises(InvalidSetting, match="alone"):
        broker.sink(name).seek(ids[0])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("ack_grace", -1),
        ("ack_grace", float("nan")),
        ("max_attempts", 0),
        ("ordered", 1),
        ("no_ack", "yes"),
        ("topic", "a b"),
        ("pattern", "("),
        ("pattern", "a" * 1_001),
        ("pattern", 7),
    ],
)
def test_a_setting_that_can_be_granted_nowhere_is_named(broker, name, setting, value) -> None:
    with pytest.raises((InvalidSetting, InvalidName), match=setting):
        broker.sink(name, name, **{setting: value})
    with pytest.raises((InvalidSetting, InvalidName), match=setting):
        Consumer(broker, name, sink=name, **{setting: value})
    assert name not in broker.sinks()


def test_acks_in_order_and_no_acks_at_all_do_not_go_together(broker, name) -> None:
    with pytest.raises(InvalidSetting, match="choose one"):
        broker.sink(name, name, ordered=True, no_ack=True)


# What no client of ours says, and what the broker says to it.
NONSENSE = [
    ({"kind": "queue", "what": "open"}, "streams and sinks can be changed"),
    ({"what": "explode"}, "nobody can 'explode' a sink"),
    ({"what": "seek"}, "moved to a start"),
    ({"what": "seek", "wish": {"start": 5}}, "moved to a start"),
    ({"what": "seek", "wish": {"start": "never"}}, "start must be"),
    ({"what": "remove_stream"}, "cannot name a stream"),
    ({"what": "remove_stream", "wish": {"stream": "../x"}}, "cannot name a stream"),
    ({"what": "open", "wish": {"colour": "red"}}, "unknown setting 'colour'"),
    ({"what": "open", "wish": {"ack_grace": "x"}}, "ack_grace"),
    ({"what": "stats", "name": "../x"}, "cannot name a sink"),
    ({"what": "stats", "name": "nobody"}, "no sink 'nobody'"),
    ({"what": "open", "streams": ["../x"]}, "cannot name a stream"),
]


@pytest.mark.parametrize(("asked", "said"), NONSENSE, ids=[str(asked) for asked, _ in NONSENSE])
def test_nonsense_about_a_sink_is_answered_in_words_and_changes_nothing(broker, name, asked, said) -> None:
    publish(broker, name, [1])
    sink = broker.sink(name, name)
    before = sink.stats()
    question = {"kind": "sink", "name": name, **asked}
    with pytest.raises(DqError, match=re.escape(said)):
        broker.change(question.pop("kind"), question.pop("name"), question.pop("what"), **question)
    assert sink.stats() == before
    assert taken(broker, sink=name) == [1]


def test_what_was_destroyed_cannot_be_moved(broker, name) -> None:
    sink = broker.sink(name, name)
    sink.destroy()
    sink.destroy()  # a broker that is killed after the deed is asked again
    for act in (sink.pause, sink.resume, sink.stats, lambda: sink.seek(timedelta(hours=1))):
        with pytest.raises(UnknownSink):
            act()

"""Names and settings that are not sound are refused before anything is made, also when somebody goes around the classes."""

from __future__ import annotations

import math
import os
from datetime import timedelta

import pytest

import dq
from dq import BrokerManager, Consumer, Event, EventOwner, EventType, InvalidSetting, LogError, Publisher
from dq.errors import by_name
from dq.transport.peer import Peer
from stage import sink_of

BAD_NAMES = (
    "../../etc/passwd", "/etc/x", "a/b", ".", "..", "a..b", ".hidden", "-rf", "", "a\0b", "a\nb", "orders\n", "x" * 129,
    "\uff45mails", "caf\u00e9", "cafe\u0301",
)  # fmt: skip


def hello(broker: BrokerManager, owner: EventOwner, **fields) -> Event:
    """What is answered to a REGISTER that no class of dq would send."""
    peer = Peer(broker.root)
    try:
        return peer.ask(Event(EventType.REGISTER, owner, {"id": f"x-{os.urandom(4).hex()}", "pid": 1, **fields}), 5)
    finally:
        peer.close()


@pytest.mark.parametrize("bad", BAD_NAMES)
def test_a_bad_name_is_refused_by_the_brokers_too(broker, name, bad):
    """bad input 49 and 50: a name reaches the brokers without the client's check, and makes no file anywhere."""
    broker.stream(name)
    before = {path for path in broker.root.parent.rglob("*") if path.name != "manager.sock"}
    answers = [
        hello(broker, EventOwner.PUBLISHER, stream=bad, create=True),
        hello(broker, EventOwner.CONSUMER, streams=[bad], sink="s", create=True),
        hello(broker, EventOwner.CONSUMER, streams=[name], sink=bad, create=True),
        hello(broker, EventOwner.PUBLISHER, stream=name, create=True, id=bad),
    ]
    with pytest.raises(dq.InvalidName):
        broker.ask(EventType.OPEN, {"stream": bad, "create": True, "settings": {}})
    assert [(answer.type, answer["error"]) for answer in answers] == [(EventType.NACK, "InvalidName")] * 4
    assert {path for path in broker.root.parent.rglob("*") if path.name != "manager.sock"} == before
    assert broker.publish(name, 1).id.startswith(f"{name}/0/")


def test_names_that_differ_in_case_are_two_streams(broker, name):
    """bad input 50: ASCII alone, byte by byte."""
    first, second = broker.publish(f"{name}A", 1), broker.publish(f"{name}a", 2)
    assert (first.id, second.id) == (f"{name}A/0/0", f"{name}a/0/0")


def test_a_stream_whose_directory_is_a_link_is_closed_and_the_others_serve(tmp_path):
    """bad input 51: replaced by a link, be it to its own bytes; nothing is read or written behind it."""
    root = tmp_path / "q"
    with BrokerManager(root) as broker:
        broker.publish("linked", 1)
        broker.publish("other", 1)
    elsewhere = tmp_path / "elsewhere"
    stream = root / "streams" / "linked"
    stream.rename(elsewhere)
    stream.symlink_to(elsewhere)
    before = {path: path.read_bytes() for path in elsewhere.rglob("*") if path.is_file()}
    with BrokerManager(root) as broker:
        with pytest.raises(LogError, match="follows no links"):
            broker.publish("linked", 2)
        with pytest.raises(LogError, match="follows no links"), Publisher(broker, "linked"):
            pass
        assert broker.publish("other", 2).id == "other/0/1"
        assert "follows no links" in broker.stats()["publisher_broker"]["closed"]["linked"]
    assert {path: path.read_bytes() for path in elsewhere.rglob("*") if path.is_file()} == before
    stream.unlink()
    elsewhere.rename(stream)
    with BrokerManager(root) as broker:
        assert broker.publish("linked", 2).id == "linked/0/1"


def test_a_sink_whose_directory_is_a_link_is_refused(tmp_path):
    """bad input 51: the same for a sink."""
    root = tmp_path / "q"
    with BrokerManager(root) as broker, Consumer(broker, "s", sink="linked"):
        pass
    elsewhere = tmp_path / "elsewhere"
    (root / "sinks" / "linked").rename(elsewhere)
    (root / "sinks" / "linked").symlink_to(elsewhere)
    before = sorted(path.name for path in elsewhere.iterdir())
    with pytest.raises(LogError, match="link"), BrokerManager(root) as broker:
        Consumer(broker, "s", sink="linked").close()
    assert sorted(path.name for path in elsewhere.iterdir()) == before


# --- settings --------------------------------------------------------------------------------------------------------

STREAM_SETTINGS = {"buckets": 2, "keep_seconds": 1.0, "keep_bytes": 1, "segment_bytes": 8192}
SINK_SETTINGS = {"ack_grace": 5.0, "max_attempts": 3}
BAD_NUMBERS = [-1, -0.5, math.nan, math.inf, 10**30, "10", True, [10], {"value": 10}]


def ids(value: object) -> str:
    return repr(value)[:20]


@pytest.mark.parametrize("bad", BAD_NUMBERS, ids=ids)
@pytest.mark.parametrize("setting", STREAM_SETTINGS)
def test_a_setting_of_a_stream_is_refused_by_name(broker, name, setting, bad):
    """bad input 52: negative, NaN, huge, a text, a truth, a list."""
    with pytest.raises(InvalidSetting, match=setting):
        broker.stream(name, **{setting: bad})
    assert not (broker.root / "streams" / name).exists()


@pytest.mark.parametrize("bad", BAD_NUMBERS, ids=ids)
@pytest.mark.parametrize("setting", SINK_SETTINGS)
def test_a_setting_of_a_sink_is_refused_by_name(broker, name, setting, bad):
    """bad input 52: by the consumer's class, before the broker is asked."""
    with pytest.raises(InvalidSetting, match=setting):
        Consumer(broker, name, sink=name, **{setting: bad})
    assert not (broker.root / "sinks" / name).exists()


@pytest.mark.parametrize("bad", [-1, "10", True], ids=ids)
def test_a_setting_is_refused_by_the_brokers_too(broker, name, bad):
    """bad input 52: it reaches the brokers without the client's check."""
    with pytest.raises(InvalidSetting, match="buckets"):
        broker.ask(EventType.OPEN, {"stream": name, "create": True, "settings": {"buckets": bad}})
    for settings, named in (({"ack_grace": bad}, "ack_grace"), ({"colour": bad}, "colour")):
        fields = {"streams": ["there"], "sink": name, "create": True, "settings": settings}
        answer = hello(broker, EventOwner.CONSUMER, **fields)
        assert isinstance(by_name(answer["error"], answer["message"]), InvalidSetting)
        assert named in answer["message"]
    assert sink_of(broker, name) == {}


@pytest.mark.parametrize("bad", [-1, math.nan, "10", True, 10**30, timedelta(seconds=-1)], ids=ids)
@pytest.mark.parametrize("argument", ["linger", "reconnect_timeout"])
def test_seconds_of_a_publisher_are_refused_by_name(broker, name, argument, bad):
    """bad input 52."""
    with pytest.raises(InvalidSetting, match=argument):
        Publisher(broker, name, **{argument: bad})


@pytest.mark.parametrize("bad", [-1, math.nan, "10", True, 10**30, timedelta(seconds=-1)], ids=ids)
@pytest.mark.parametrize("argument", ["idle_timeout", "reconnect_timeout"])
def test_seconds_of_a_consumer_are_refused_by_name(broker, name, argument, bad):
    """bad input 52."""
    with pytest.raises(InvalidSetting, match=argument):
        Consumer(broker, name, sink=name, **{argument: bad})


def test_seconds_may_be_a_timedelta(broker, name):
    second = timedelta(seconds=1)
    with Publisher(broker, name, linger=timedelta(milliseconds=1), reconnect_timeout=second) as publisher:
        publisher.publish(1)
    with Consumer(broker, name, sink=name, ack_grace=second * 7, idle_timeout=second, reconnect_timeout=second) as consumer:
        assert next(iter(consumer)).payload == 1
    assert sink_of(broker, name)["settings"]["ack_grace"] == 7


@pytest.mark.parametrize("bad", ["", b"queue_data", "a\0b", os.fsdecode(b"caf\xe9")], ids=ids)
def test_a_path_that_cannot_be_a_data_directory_is_refused(bad):
    """bad input 52: empty, bytes, with a NUL, not UTF-8."""
    with pytest.raises(InvalidSetting, match="path"):
        BrokerManager(bad)
    with pytest.raises(InvalidSetting, match="path"):
        dq.connect(bad, start=True)

"""CHANGE and READER events with absurd values: answered in words, or they cost their own connection; nobody else notices."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

import pytest
from raw_client import RawClient, envelope, new_id

from dq import Publisher

pytestmark = pytest.mark.usefixtures("others_unharmed")

HUGE = 2**63
DEEP = "(" * 900
NUMBERS = [0, 1, HUGE, 2**64 - 1, 1e308, 1.5, True, None, "", "x" * 100_000]
STARTS = [
    "", "oldest ", "newest\n", "99999-01-01T00:00:00+00:00", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59",
    "1e999", "{stream}/0/9223372036854775808", "{stream}/0/9999999999999999999", "{stream}/99999/0", "{stream}=1,2,3",
    "{stream}=9999999999999999999", "{stream}=0;" * 20_000, "other=0", "\x00", "\ud7ff" * 1_000, "x" * 1_000_000,
]  # fmt: skip
PATTERNS = [
    "(",
    "(a",
    "[",
    "*",
    "(?P<n>a)(?P<n>b)",
    "a{99999999999}",
    DEEP,
    "(?i)" * 500,
    "\\",
    "(?<=a*)b",
    "x" * 100_000,
    "(?z)",
]
STREAM_WISHES = {
    "trim": [
        *({"max_records": value} for value in NUMBERS), *({"before": value} for value in (*STARTS, *NUMBERS)),
        {}, {"before": "oldest", "max_records": 1}, {"other": 1},
    ],
    "remove": [{}, {"ids": "x"}],
    "destroy ": [{}], "": [{}], "x" * 100_000: [{}], "stats": [{"a": "b" * 100_000}], "sync": [{}],
    "list": [{}],
}  # fmt: skip
SINK_WISHES = {
    "open": [
        *({"ack_grace": value} for value in NUMBERS), *({"max_attempts": value} for value in NUMBERS),
        *({"ordered": value} for value in NUMBERS), *({"no_ack": value} for value in NUMBERS),
        *({"pattern": value} for value in (*PATTERNS, *NUMBERS)), *({"topic": value} for value in NUMBERS),
        *({"start": value} for value in (*STARTS, *NUMBERS)), {"x" * 1_000: 1}, {str(n): n for n in range(10_000)},
    ],
    "seek": [{}, *({"start": value} for value in (*STARTS, *NUMBERS))],
    "add_stream": [{}, *({"start": value} for value in (*STARTS, *NUMBERS))],
    "remove_stream": [{}, {"stream": "../x"}, {"stream": 7}, {"stream": "never there"}, {"stream": "x" * 100_000}],
    "who": [
        *({"limit": value} for value in NUMBERS), *({"stream": value} for value in NUMBERS),
        *({"consumer": value} for value in NUMBERS), {"limit": -1}, {"other": 1},
    ],
    "release": [{}, *({"consumer": value} for value in NUMBERS)],
    "pause ": [{}], "\x00": [{}], "stats": [{}], "list": [{}],
}  # fmt: skip


def filled(value: Any, stream: str) -> Any:
    return value.replace("{stream}", stream) if isinstance(value, str) else value


def answers(broker: Any, asked: list[bytes]) -> list[str]:
    """What came of each: the name of the error, "done", or "cut off"."""
    outcomes, client = [], None
    for content in asked:
        client = client or RawClient.client(broker.root)
        client.send(content)
        heard = client.hear_or_end()
        if heard is None or "request" not in heard:
            client.close()
            client = None
            outcomes.append("cut off" if heard is None else f"cut off: {heard['error']}")
        else:
            outcomes.append(heard["error"] if heard["type"] == "NACK" else "done")
    if client is not None:
        client.close()
    return outcomes


EXPECTED = {"done", "cut off", "cut off: ProtocolError", "InvalidSetting", "InvalidName", "SettingsMismatch", "UnknownStream"}


def change(kind: Any, name: Any, what: Any, **fields: Any) -> bytes:
    return envelope("CHANGE", "CLIENT", request=1, kind=kind, name=name, what=what, **fields)


def test_absurd_wishes_for_a_stream_are_refused_in_words(broker, name):
    with Publisher(broker, name) as publisher:
        publisher.publish_many(range(5))
    asked = [
        change("stream", name, what, wish={key: filled(value, name) for key, value in wish.items()})
        for what, wishes in STREAM_WISHES.items()
        for wish in wishes
    ]
    began = time.monotonic()
    assert set(answers(broker, asked)) <= EXPECTED
    assert time.monotonic() - began < 20


def test_absurd_ids_are_refused_and_many_are_taken(broker, name):
    with Publisher(broker, name) as publisher:
        publisher.publish_many(range(5))
    few = [
        f"{name}/0/{HUGE}",
        f"{name}/0/-1",
        f"{name}/00/1",
        f"{name}/7/1",
        "x",
        "",
        f"{name}/0/1\n",
        f"{name}/0/" + "9" * 10_000,
    ]
    asked = [change("stream", name, "remove", ids=[each]) for each in few]
    asked += [change("stream", name, "remove", ids=ids) for ids in ([1], [None], [[]], {}, "x")]
    assert "done" not in answers(broker, asked[1:])
    # 100,000 of them, of which five are there
    many = [f"{name}/0/{n}" for n in range(100_000)]
    began = time.monotonic()
    assert answers(broker, [change("stream", name, "remove", ids=many)]) == ["done"]
    assert broker.stream(name).stats().removed == 5
    assert time.monotonic() - began < 10


def test_absurd_ids_to_be_taken_back_are_refused(broker, name):
    broker.sink(name, name)
    few = [f"{name}/0/{HUGE}0", f"{name}/0/-1", f"{name}/00/1", "x", "", "newest", f"{name}/0/1\n", f"{name}/0/" + "9" * 10_000]
    asked = [change("sink", name, "release", ids=ids) for ids in (*([each] for each in few), [1], [None], [[]], {}, "x")]
    asked.append(change("sink", name, "release", ids=[f"{name}/0/{n}" for n in range(100_000)]))
    assert set(answers(broker, asked)) <= {"InvalidSetting", "cut off: ProtocolError"}
    # What is in no hand, of a bucket or a stream that there is not, is passed over
    assert answers(broker, [change("sink", name, "release", ids=[f"{name}/7/1", "nowhere/0/1", f"{name}/0/{HUGE}"])]) == [
        "done"
    ]


def test_absurd_wishes_for_a_sink_are_refused_in_words(broker, name):
    broker.sink(name, name)
    asked = [
        change("sink", name if what != "open" else f"{name}-{n}", what, streams=[name], create=True,
               wish={key: filled(value, name) for key, value in wish.items()})
        for what, wishes in SINK_WISHES.items()
        for n, wish in enumerate(wishes)
    ]  # fmt: skip
    began = time.monotonic()
    assert set(answers(broker, asked)) <= EXPECTED
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("what", ["open", "seek", "destroy", "stats", "trim", "remove"])
def test_absurd_names_and_kinds_are_refused(what, broker, name):
    names = ["", "../x", "a/b", ".", "-rf", "\x00", "x" * 200, "x" * 1_000_000, "ü", "writer.lock", "reserve", ".s.gone"]
    asked = [change(kind, each, what) for kind in ("stream", "sink") for each in names]
    asked += [change(kind, name, what) for kind in ("", "reader", "x" * 100_000, None, 7)]
    asked += [change("sink", name, what, streams=streams) for streams in (["x"] * 20_000, [""], ["../x"], [7], [[]], {}, "x")]
    outcomes = answers(broker, asked)
    assert set(outcomes) <= {*EXPECTED, "UnknownSink"}


def test_what_brokers_tell_each_other_is_not_taken_from_clients(broker, name):
    ends = {"firsts": [HUGE], "removed": [], "ends": [[HUGE] * 3]}
    opened = [{"stream": name, "uuid": "x", "epoch": HUGE, "starts": [], "settings": {}, **ends}]
    asked = [change("sink", name, what, opened=opened, wish={"start": "oldest"}) for what in ("open", "seek")]
    assert set(answers(broker, asked)) <= {"cut off: ProtocolError", "cut off"}


READS: list[dict[str, Any]] = [
    {"credit": HUGE, "number": HUGE}, {"credit": 0, "number": 0},
    {"credit": 1, "request": HUGE, "stream": "{name}", "bucket": HUGE},
    {"credit": 1, "request": 1, "stream": "{name}", "bucket": 0, "first": HUGE, "count": HUGE, "size": HUGE},
    {"credit": 1, "request": 1, "stream": "x" * 100_000, "bucket": 0},
    {"credit": 1, "request": 1, "stream": "", "first": 2**64 - 1},
]  # fmt: skip


def test_absurd_readers_are_answered_or_cut_off(broker, name):
    with Publisher(broker, name) as publisher:
        publisher.publish_many(range(5))
    for fields in READS:
        with RawClient.reader(broker.root, name) as reader:
            reader.say("READ", "READER", **{key: filled(value, "").replace("{name}", name) if isinstance(value, str) else value
                                            for key, value in fields.items()})  # fmt: skip
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may be cut off by now
                reader.say("READ", "READER", credit=0, number=3)
            reader.hear_or_end()
    for streams in (["x"] * 20_000, [""], ["../x"], [7], [[]], {}, "x", [name] * 9_000):
        with RawClient.reader(broker.root, name) as reader:
            reader.say("REGISTER", "READER", id=new_id(), pid=os.getpid(), streams=streams, request=1)
            reader.hear_or_end()
        with RawClient(broker.root) as stranger:
            stranger.say("REGISTER", "READER", id=new_id(), pid=HUGE, streams=streams)
            stranger.hear_or_end()

"""What may be published, what comes out of it, and what is refused before anything is sent."""

from __future__ import annotations

import dataclasses
import math
import uuid
from datetime import UTC, date, datetime

import pytest

from dq import (
    Consumer,
    InvalidName,
    InvalidPayload,
    InvalidSetting,
    Publisher,
    RecordTooLarge,
    SettingsMismatch,
    TaskIn,
    UnknownSink,
    UnknownStream,
)
from dq.config import LIMITS
from stage import drain


@dataclasses.dataclass
class Mail:
    to: str
    copies: tuple[str, ...]
    weight: float = 1.0


def loop() -> list:
    endless: list = []
    endless.append(endless)
    return endless


def deep(levels: int) -> list:
    nested: list = []
    for _ in range(levels):
        nested = [nested]
    return nested


def received(broker, stream: str) -> list:
    with Consumer(broker, stream, sink=stream, idle_timeout=0.3) as consumer:
        payloads = []
        for task in consumer:
            with task:
                payloads.append(task.payload)
        return payloads


REFUSED = {
    "NaN": math.nan,
    "infinity": math.inf,
    "minus infinity within": {"a": [1, {"b": -math.inf}]},
    "NaN beside null": [None, math.nan],
    "NaN in a dataclass": Mail("ada", (), math.nan),
    "NaN in a dataclass in a tuple": ({"mail": Mail("ada", (), math.nan)},),
    "bytes inside": {"raw": b"x"},
    "a set": {1, 2},
    "an object": object(),
    "a function": len,
    "a complex number": 1j,
    "int keys": {1: "a"},
    "None as a key": {None: 1},
    "a lone surrogate": "\ud800",
    "a lone surrogate as a key": {"\udfff": 1},
    "2**70": 2**70,
    "-2**70": {"n": -(2**70)},
    "itself": loop(),
    "too deep": deep(300),
}


@pytest.mark.parametrize("payload", REFUSED.values(), ids=REFUSED.keys())
def test_what_json_cannot_carry_is_refused_before_it_is_sent(broker, payload):
    """Rows 33-37: NaN, surrogates, numbers over 64 bits, keys that are no str."""
    with Publisher(broker, "refused") as publisher:
        before = _records(broker, "refused")
        for verb in (publisher.publish, publisher.submit, lambda item: publisher.publish_many([item])):
            with pytest.raises(InvalidPayload) as caught:
                verb(payload)
            assert isinstance(caught.value, TypeError)
        with pytest.raises(InvalidPayload):
            publisher.publish_many([TaskIn(payload, key="a")])
        publisher.publish("good")
        assert _records(broker, "refused") == before + 1


def _records(broker, stream: str) -> int:
    return broker.stats()["publisher_broker"]["streams"][stream]["records"]


MOMENT = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
SOME_UUID = uuid.UUID(int=7)
CARRIED = {
    "None": (None, None),
    "a truth": (True, True),
    "0": (0, 0),
    "the largest int": (2**64 - 1, 2**64 - 1),
    "the smallest int": (-(2**63), -(2**63)),
    "a float": (0.1, 0.1),
    "text": ("", ""),
    "text of all kinds": ("é \u2028 \u0000 😀 \n", "é \u2028 \u0000 😀 \n"),
    "the word null": ("null", "null"),
    "an empty list": ([], []),
    "an empty dict": ({}, {}),
    "null within": ({"a": None}, {"a": None}),
    "a tuple": ((1, (2,)), [1, [2]]),
    "a dataclass": (Mail("ada", ("bob",)), {"to": "ada", "copies": ["bob"], "weight": 1.0}),
    "a datetime": (MOMENT, "2026-11-22T09:00:00+00:00"),
    "a date": (date(2026, 11, 22), "2026-11-22"),
    "a UUID": ({"id": SOME_UUID}, {"id": str(SOME_UUID)}),
    "bytes": (b"\x00\xff\n", b"\x00\xff\n"),
    "no bytes": (b"", b""),
    "a bytearray": (bytearray(b"x"), b"x"),
    "a memoryview": (memoryview(b"x"), b"x"),
    "what looks like a batch header": ('\n{"batch":1}\n', '\n{"batch":1}\n'),
    "a key named batch": ({"batch": 1}, {"batch": 1}),
    "keys of a record": ({"at": 1, "payload": 2, "base64": "x"}, {"at": 1, "payload": 2, "base64": "x"}),
}


@pytest.mark.parametrize(("payload", "expected"), CARRIED.values(), ids=CARRIED.keys())
def test_what_json_can_carry_comes_out_equal(broker, name, payload, expected):
    """Rows 38 and 47, by each of the three verbs."""
    with Publisher(broker, name) as publisher:
        publisher.publish(payload)
        publisher.publish_many([payload, TaskIn(payload, key="k")])
        publisher.submit(payload).result(5)
    got = received(broker, name)
    assert got == [expected] * 4
    assert {type(part) for part in got} == {type(expected)}


def test_a_record_of_the_greatest_size_goes_through_and_one_byte_more_is_refused(broker, name):
    """Row 47: the limit, and the limit and one."""
    with Publisher(broker, name) as publisher:
        envelope = len(publisher.line_of("", None, None, "", None))
        fits = "x" * (LIMITS.record_bytes_max - envelope - 8)  # the time has up to 8 digits more or less
        publisher.publish(fits)
        for verb in (publisher.publish, publisher.submit, lambda item: publisher.publish_many([item])):
            with pytest.raises(RecordTooLarge, match=str(LIMITS.record_bytes_max)):
                verb("x" * LIMITS.record_bytes_max)
        publisher.publish("small")
    assert [len(task.payload) for task in drain(broker, name, sink=name)] == [len(fits), 5]


def test_a_lease_holds_what_fits_however_large_its_records_are(broker, name):
    with Publisher(broker, name) as publisher:
        publisher.publish_many("x" * (300_000 + n) for n in range(20))
    assert [len(payload) for payload in received(broker, name)] == [300_000 + n for n in range(20)]


def test_an_error_of_publish_many_tells_what_was_committed_before_it(broker, name):
    """Row 48: 250 good records, and one that is not."""

    def payloads():
        yield from range(250)
        yield {1, 2}

    with Publisher(broker, name, batch_size=100) as publisher:
        with pytest.raises(InvalidPayload) as caught:
            publisher.publish_many(payloads())
        assert [receipt.id for receipt in caught.value.receipts] == [f"{name}/0/{n}" for n in range(len(caught.value.receipts))]
        assert len(caught.value.receipts) >= 200
        stored = len(caught.value.receipts)
    assert received(broker, name) == list(range(stored))


def test_an_exception_of_the_callers_iterable_passes_through(broker, name):
    def payloads():
        yield 1
        raise LookupError("no more")

    with Publisher(broker, name) as publisher, pytest.raises(LookupError, match="no more"):
        publisher.publish_many(payloads())


@pytest.mark.parametrize("key", [1, b"k", ("a",), 1.5])
def test_a_key_is_a_str(broker, name, key):
    with Publisher(broker, name) as publisher:
        with pytest.raises(InvalidPayload, match="key"):
            publisher.publish(1, key=key)
        with pytest.raises(InvalidPayload, match="key"):
            publisher.publish_many([1], key=lambda _: key)


@pytest.mark.parametrize("headers", [{"a": object()}, {1: "a"}, {"a": b"x"}])
def test_headers_that_cannot_be_written_are_refused(broker, name, headers):
    with Publisher(broker, name) as publisher, pytest.raises(InvalidPayload):
        publisher.publish(1, headers=headers)


# --- names -----------------------------------------------------------------------------------------------------------

BAD_NAMES = (
    "../../etc/passwd", "/etc/x", "a/b", ".", "..", "a..b", ".hidden", "-rf", "", "a\0b", "a\nb", "orders\n", "a b",
    "x" * 129, "\uff45mails", "caf\u00e9", "cafe\u0301", "a\\b", "*", "~",
)  # fmt: skip


@pytest.mark.parametrize("bad", BAD_NAMES)
def test_what_cannot_be_a_file_name_names_no_stream_no_sink_and_no_topic(broker, name, bad):
    """Rows 49 and 50."""
    makers = (
        lambda: Publisher(broker, bad),
        lambda: Consumer(broker, bad, sink="s"),
        lambda: Consumer(broker, name, sink=bad),
        lambda: broker.stream(bad),
        lambda: broker.publish(bad, 1),
    )
    for make in makers:
        with pytest.raises(InvalidName) as caught:
            make()
        assert isinstance(caught.value, ValueError)
    with Publisher(broker, name) as publisher, pytest.raises(InvalidName):
        publisher.publish(1, topic=bad)
    assert not (broker.root / "streams" / "x").exists()


@pytest.mark.parametrize("bad", [None, 1, b"emails", ["emails"]])
def test_a_name_is_a_str(broker, bad):
    with pytest.raises(InvalidName):
        Publisher(broker, bad)


@pytest.mark.parametrize("good", ["a", "A", "0", "_", "a.b", "a-b_c.D", "x" * 128])
def test_plain_names_are_taken(broker, good):
    with Publisher(broker, good) as publisher:
        assert publisher.publish(1).id.startswith(f"{good}/0/")


@pytest.mark.parametrize("reserved", ["emails-dlq", "emails-later"])
def test_streams_that_dq_makes_itself_cannot_be_made(broker, reserved):
    with pytest.raises(InvalidName, match="dq makes"):
        Publisher(broker, reserved)


# --- settings --------------------------------------------------------------------------------------------------------


def test_a_stream_keeps_its_settings_and_shows_both_where_another_wish_comes(broker, name):
    broker.stream(name, buckets=3)
    assert broker.stream(name).buckets == 3
    assert broker.stream(name, buckets=3).buckets == 3
    with pytest.raises(SettingsMismatch, match=r"buckets=3.*4"):
        broker.stream(name, buckets=4)


def test_a_sink_keeps_its_settings_and_shows_both_where_another_wish_comes(broker, name):
    with Publisher(broker, name), Consumer(broker, name, sink=name, max_attempts=3, ack_grace=7):
        pass
    with Consumer(broker, name, sink=name):
        pass
    with pytest.raises(SettingsMismatch, match=r"max_attempts=3.*4"):
        Consumer(broker, name, sink=name, max_attempts=4)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("buckets", 0), ("buckets", 1025), ("buckets", "4"), ("buckets", True), ("buckets", 2.0), ("keep_seconds", math.nan),
     ("keep_bytes", -1), ("durability", "none"), ("retention", "x"), ("segment_bytes", 1), ("backend", ""), ("colour", "red")],
)  # fmt: skip
def test_a_setting_that_is_not_sound_is_refused_by_name(broker, name, setting, value):
    """Row 52."""
    with pytest.raises(InvalidSetting, match=setting):
        broker.stream(name, **{setting: value})


@pytest.mark.parametrize(
    ("argument", "value"),
    [("ack_grace", 0), ("ack_grace", math.inf), ("ack_grace", "20"), ("max_attempts", 0), ("max_attempts", True),
     ("start", "middle"), ("prefetch", 0), ("prefetch", "many"), ("prefetch", True), ("idle_timeout", -1)],
)  # fmt: skip
def test_a_wish_of_a_consumer_that_is_not_sound_is_refused_by_name(broker, name, argument, value):
    with Publisher(broker, name), pytest.raises(InvalidSetting, match=argument):
        Consumer(broker, name, sink=name, **{argument: value})


@pytest.mark.parametrize(("argument", "value"), [("batch_size", 0), ("batch_size", True), ("linger", -1), ("linger", 61)])
def test_a_wish_of_a_publisher_that_is_not_sound_is_refused_by_name(broker, name, argument, value):
    with pytest.raises(InvalidSetting, match=argument):
        Publisher(broker, name, **{argument: value})


def test_an_unknown_stream_is_refused_with_near_names_where_none_is_to_be_made(broker):
    with Publisher(broker, "orders-of-today"):
        pass
    with pytest.raises(UnknownStream, match="orders-of-today"):
        Publisher(broker, "orders-of-tody", create=False)
    with pytest.raises(UnknownStream, match="orders-of-today"):
        Consumer(broker, "orders-of-tody", sink="s", create=False)
    assert "orders-of-tody" not in broker.stats()["publisher_broker"]["streams"]


def test_a_consumer_of_a_new_sink_needs_a_stream(broker):
    with pytest.raises(UnknownSink, match=r"no sink 'mailmen': .* if it names the streams"):
        Consumer(broker, sink="mailmen")

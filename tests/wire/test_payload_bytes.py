"""Payloads that try to be something else come back byte by byte; a record line that is no JSON harms no other record."""

from __future__ import annotations

import itertools
import math
import os
import signal

import orjson
import pytest
from raw_client import RECORD, RawClient, stored, write

from dq import Consumer, InvalidPayload, Publisher, RecordTooLarge
from stage import pids, settled, until

GOOD_LINE = b'{"at":1,"payload":"good"}\n'


def consumed(broker, stream: str, count: int) -> list:
    """The payloads of a stream, by a sink of its own."""
    with Consumer(broker, stream, sink=f"{stream}-reader", idle_timeout=5) as consumer:
        return [(task.payload, task.ack())[0] for task in itertools.islice(consumer, count)]


# --- what a client refuses before it is sent ---------------------------------------------------------------------------


def selfish() -> list:
    """A list that holds itself."""
    one: list = []
    one.append(one)
    return one


def deep(levels: int) -> list:
    value: list = []
    for _ in range(levels):
        value = [value]
    return value


REFUSED = {
    "37: a number as a key": {1: 2, "1": 3},
    "37: None as a key": {None: 1},
    "37: a key of bytes": {b"a": 1},
    "37: a set": {1, 2},
    "37: a set within": {"a": [{1}]},
    "37: bytes within": {"a": b"x"},
    "37: a list that holds itself": selfish(),
    "37: an object": object(),
    "37: a function": len,
    "37: a complex number": 1j,
    "20: 1,500 levels": deep(1_500),
    "33: NaN": math.nan,
    "33: NaN within": [{"a": (1, math.nan)}],
    "33: infinity": math.inf,
    "33: minus infinity within": {"a": -math.inf},
    "34: a lone surrogate": "\ud800",
    "34: a lone surrogate as a key": {"\udfff": 1},
    "35: 2^64": 2**64,
    "35: -2^63-1": -(2**63) - 1,
    "35: 5,000 digits": 10**4_999,
}


@pytest.mark.usefixtures("others_unharmed")
@pytest.mark.parametrize("payload", REFUSED.values(), ids=REFUSED.keys())
def test_what_json_cannot_carry_is_refused_before_it_is_sent(broker, name, payload):
    """Bad input 33 to 35, 37: a TypeError that is ours; the publisher goes on, and nothing is stored."""
    with Publisher(broker, name) as publisher:
        with pytest.raises(InvalidPayload) as caught:
            publisher.publish(payload)
        assert isinstance(caught.value, TypeError)
        with pytest.raises(InvalidPayload):
            publisher.publish_many([1, payload, 2])
        receipt = publisher.publish("after")
    count = int(receipt.id.rpartition("/")[2])
    assert consumed(broker, name, count + 1)[-1] == "after"
    assert stored(broker, name) == count + 1


# --- what comes back as it went ---------------------------------------------------------------------------------------

HONEST = {
    "38: a batch header": '{"batch":0,"count":1,"bytes":9}',
    "38: a batch header after a line end": 'x\n{"batch":0,"count":1,"bytes":9,"crc":"00000000"}\n',
    "38: a segment header": '\n{"segment":0,"format":1}\n',
    "38: a commit line": '\n{"k":"c","n":1}\n',
    "38: a batch header that is JSON": {"batch": 0, "count": 1, "crc": "00000000"},
    "38: NUL": "a\0b\u0000",
    "38: only NULs": "\0" * 5_000,
    "38: line separators": "\u2028\u2029\x85\x0b\x0c\x1c\r\n\r",
    "38: escapes": '\\u0000\\n\\"\x7f\x1b]0;title\x07',
    "38: letters of all lengths": "aé€😀\ufeff\ufffe\uffff\U0010ffff",
    "38: bytes with a header": b'\n{"batch":0}\n\0\xff',
    "38: all bytes": bytes(range(256)) * 4,
    "47: no bytes": b"",
    "47: an empty text": "",
    "47: an empty dict": {},
    "47: an empty list": [],
    "47: null": None,
    "47: false": False,
    "47: zero": 0,
    "47: minus zero": -0.0,
    "35: the greatest whole number": 2**64 - 1,
    "35: the least whole number": -(2**63),
    "35: the greatest number": 1.7976931348623157e308,
    "35: the least number above zero": 5e-324,
    "20: 200 levels": deep(200),
    "a key that is empty": {"": {"": None}},
    "the word null": "null",
    "a field named as ours": {"base64": "eA==", "payload": 1, "at": 2},
}


@pytest.mark.usefixtures("others_unharmed")
def test_every_payload_comes_back_as_it_went(broker, name):
    """Bad input 38, 47: each kind alone, and all of them in one batch; types and bytes are the same."""
    payloads = list(HONEST.values())
    with Publisher(broker, name) as publisher:
        for payload in payloads:
            publisher.publish(payload)
        publisher.publish_many(payloads)
    got = consumed(broker, name, 2 * len(payloads))
    assert [repr(payload) for payload in got] == [repr(payload) for payload in payloads * 2]


def test_recovery_is_not_fooled_by_what_a_payload_holds(dq_broker):
    """Bad input 38: the log is read from its beginning after a kill, and each record is where it was."""
    payloads = list(HONEST.values())
    with Publisher(dq_broker, "s") as publisher:
        for payload in payloads:
            publisher.publish(payload)
        publisher.publish_many(payloads)
        before = pids(dq_broker)[0]
        os.kill(before, signal.SIGKILL)
        assert publisher.publish("after").id == f"s/0/{2 * len(payloads)}"
    assert pids(dq_broker)[0] != before
    got = consumed(dq_broker, "s", 2 * len(payloads) + 1)
    assert [repr(payload) for payload in got] == [repr(payload) for payload in [*payloads * 2, "after"]]
    for path in sorted((dq_broker.root / "streams/s/0").glob("*.jsonl")):
        assert all(isinstance(orjson.loads(line), dict) for line in path.read_bytes().splitlines())


def test_a_record_over_the_limit_is_refused_and_one_at_the_limit_is_not(broker, name):
    """Bad input 47: the limit is on the record's line."""
    limit = 8 * 1024 * 1024
    with Publisher(broker, name) as publisher:
        publisher.publish("x" * (limit - 100))
        with pytest.raises(RecordTooLarge, match="8388608"):
            publisher.publish("x" * limit)
        publisher.publish("after")
    assert [len(payload) for payload in consumed(broker, name, 2)] == [limit - 100, 5]


# --- what another program writes into a batch ----------------------------------------------------------------------------

# The broker opens no batch. What is no record is found by the consumer, and given up alone, as the bytes that it is.
NO_RECORDS = {
    "30: invalid UTF-8": b'{"at":1,"payload":"\xff"}',
    "30: overlong UTF-8": b'{"at":1,"payload":"\xc0\xaf"}',
    "30: surrogates as UTF-8": b'{"at":1,"payload":"\xed\xa0\xbd\xed\xb8\x80"}',
    "32: a byte order mark": b'\xef\xbb\xbf{"at":1,"payload":1}',
    "33: NaN": b'{"at":1,"payload":NaN}',
    "33: Infinity": b'{"at":1,"payload":Infinity}',
    "33: 1e999": b'{"at":1,"payload":1e999}',
    "34: a lone surrogate": b'{"at":1,"payload":"\\ud800"}',
    "35: 5,000 digits": b'{"at":1,"payload":' + b"1" * 5_000 + b"}",
    "20: 100,000 levels": b'{"at":1,"payload":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "no JSON": b"hello",
    "half an object": b'{"at":1,',
    "a list": b"[1,2]",
    "no payload": b'{"at":1}',
    "nothing": b"",
    "a carriage return alone": b"\r",
    "a closing bracket": b"]",
    "a comma": b",",
    "two records": b'{"at":1,"payload":1},{"at":1,"payload":2}',
    "a raw line separator": b'{"at":1,"payload":"a\x0bb"}',
}


@pytest.mark.usefixtures("others_unharmed")
def test_a_line_that_is_no_record_is_given_up_alone(broker, name):
    """Bad input 30 to 35, 48: of one batch, all good ones are delivered, and each bad one is a dead letter, byte by byte."""
    bad = list(NO_RECORDS.values())
    body = GOOD_LINE + b"".join(line + b"\n" + GOOD_LINE for line in bad)
    with RawClient.publisher(broker.root, name) as client:
        client.send(write(0, body, count=2 * len(bad) + 1))
        assert client.hear()["type"] == "ACK"
    sink = f"{name}-reader"
    with Consumer(broker, name, sink=sink, idle_timeout=0.5) as consumer:
        good = [(task.payload, task.attempt, task.ack())[:2] for task in consumer]
    assert good == [("good", 1)] * (len(bad) + 1)
    until(lambda: settled(broker, sink, 2 * len(bad) + 1), what="the dead letters are stored")
    assert consumed(broker, f"{name}-dlq", len(bad)) == bad


def test_a_whole_number_that_is_too_large_comes_as_a_float(broker, name):
    """Bad input 35: our client refuses it; from another program it is JSON, and comes as the nearest float."""
    with RawClient.publisher(broker.root, name) as client:
        client.send(write(0, b'{"at":1,"payload":18446744073709551616}\n'))
        assert client.hear()["type"] == "ACK"
    assert consumed(broker, name, 1) == [float(2**64)]


NO_BATCHES = {
    "38: a batch header": b'{"batch":1}\n',
    "38: a batch header between": RECORD + b'{"batch":1}\n' + RECORD,
    "31: UTF-16": '{"at":1,"payload":1}'.encode("utf-16-le") + b"\n",
    "31: UTF-32": '{"at":1,"payload":1}'.encode("utf-32-le") + b"\n",
    "38: a NUL": b'{"at":1,"payload":"\0"}\n',
    "48: one NUL in a hundred lines": RECORD * 99 + b"\0\n",
    "48: a line without an end": RECORD * 99 + RECORD[:-1],
    "no lines": b"",
    "a line end less": RECORD + RECORD[:-1],
}


@pytest.mark.usefixtures("others_unharmed")
@pytest.mark.parametrize("body", NO_BATCHES.values(), ids=NO_BATCHES.keys())
def test_a_batch_that_would_harm_the_log_is_refused_as_a_whole(broker, name, body):
    """Bad input 31, 38, 48: nothing of it is stored."""
    with RawClient.publisher(broker.root, name) as client:
        client.send(write(0, body, count=body.count(b"\n")))
        [answer] = client.hear_end()
        assert (answer["type"], answer["error"]) == ("NACK", "ProtocolError")
    assert stored(broker, name) == 0


@pytest.mark.usefixtures("others_unharmed")
def test_a_batch_that_lies_about_its_count_is_refused_as_a_whole(broker, name):
    """Bad input 48: one more, one less, none, far too many."""
    for count in (99, 101, 0, 10_001, 2**63):
        with RawClient.publisher(broker.root, name) as client:
            client.send(write(0, RECORD * 100, count=count))
            [answer] = client.hear_end()
            assert "100 lines" in answer["message"]
    assert stored(broker, name) == 0


@pytest.mark.usefixtures("others_unharmed")
def test_one_bad_payload_of_a_hundred_leaves_those_before_it(broker, name):
    """Bad input 48: a publisher refuses the one, and the error has the receipts of what was committed before it."""
    payloads: list = [{"n": n} for n in range(100)]
    payloads[60] = {1, 2}
    with Publisher(broker, name, batch_size=10) as publisher:
        with pytest.raises(InvalidPayload) as caught:
            publisher.publish_many(payloads)
        committed = len(caught.value.receipts)
        assert committed <= 60
        publisher.flush()
    assert stored(broker, name) == committed
    assert consumed(broker, name, committed) == payloads[:committed]

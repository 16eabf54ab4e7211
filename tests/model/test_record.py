"""A record line and back, for any payload that JSON can carry; and the same refusals for any that it cannot."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dq.errors import InvalidPayload
from dq.model.record import encode, payload_of, record_of

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | TEXT
PAYLOADS = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=20)


@given(PAYLOADS, st.none() | TEXT, st.none() | st.just("t"), st.sampled_from(["", "Name"]), st.dictionaries(TEXT, TEXT))
def test_any_record_comes_back_from_its_line(payload, key, topic, name, headers):
    line = encode(payload, 1_700_000_000.25, key, topic, name, headers)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert not line.startswith(b'{"batch":')
    record = record_of("emails", 2, 7, orjson.loads(line))
    assert record.payload == payload
    assert (record.key, record.topic, record.name, record.headers) == (key, topic, name, headers)
    assert record.created_at == datetime(2023, 11, 14, 22, 13, 20, 250_000, tzinfo=UTC)
    assert record.id == "emails/2/7"


@given(st.binary())
def test_any_bytes_come_back_from_their_line(raw):
    line = encode(raw, 1.0)
    assert line.count(b"\n") == 1
    assert payload_of(orjson.loads(line)) == raw


@given(PAYLOADS)
def test_many_lines_are_one_array_once_they_are_joined(payload):
    """A consumer decodes a whole lease so: a newline is nowhere but at the end of a line."""
    lines = encode(payload, 1.0) * 3
    records = orjson.loads(b"[%b]" % lines[:-1].replace(b"\n", b","))
    assert [record["payload"] for record in records] == [payload] * 3


def poisoned(bad: object):
    """Payloads with `bad` somewhere in them."""
    return st.recursive(
        st.just(bad),
        lambda inner: (
            st.tuples(st.lists(SCALARS, max_size=3), inner).map(lambda pair: [*pair[0], pair[1]])
            | st.dictionaries(TEXT, inner, min_size=1, max_size=2)
        ),
        max_leaves=5,
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 2**64, -(2**63) - 1, b"x", {1}, {1: 2}, "\ud800", object()])
@settings(max_examples=15)
@given(wrapped=st.data())
def test_what_json_cannot_carry_is_refused_wherever_it_stands(bad, wrapped):
    payload = wrapped.draw(poisoned(bad).filter(lambda value: type(value) is not bytes))
    with pytest.raises(InvalidPayload):
        encode(payload, 1.0)


def test_the_place_of_what_is_not_finite_is_named():
    with pytest.raises(InvalidPayload, match=r"payload\['a'\]\[1\] is nan"):
        encode({"a": [None, math.nan]}, 1.0)


def test_what_is_not_given_is_not_written():
    assert orjson.loads(encode(1, 2.0)) == {"at": 2.0, "payload": 1}

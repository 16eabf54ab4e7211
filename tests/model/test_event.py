"""Envelopes: any event of any kind comes back from its bytes, and nothing else is taken for one."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dq.errors import ProtocolError
from dq.model.event import _FORMS, _PARTS, Event, EventOwner, EventType, decode

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = {
    int: st.integers(0, 2**63),
    float: st.floats(0, allow_nan=False, allow_infinity=False),
    str: TEXT,
    bool: st.booleans(),
    list: st.lists(st.integers(0, 9) | TEXT, max_size=3),
    dict: st.dictionaries(TEXT, st.integers(0, 9), max_size=3),
    type(None): st.none(),
}


def values(name: str, of: type) -> st.SearchStrategy:
    """What a field of this name and type may be."""
    if name not in _PARTS:
        return VALUES[of]
    parts = st.one_of(*(VALUES[kind] for kind in _PARTS[name]))
    return st.lists(parts, max_size=3) if of is list else st.dictionaries(TEXT, parts, max_size=3)


@st.composite
def events(draw) -> Event:
    """Any event that the table allows."""
    (kind, owner), (required, optional) = draw(st.sampled_from(sorted(_FORMS.items())))
    names = list(required) + [name for name in optional if draw(st.booleans())]
    fields = {name: draw(st.one_of(*(values(name, of) for of in (required | optional)[name]))) for name in names}
    return Event(kind, owner, fields, draw(st.binary(max_size=50)))


@given(events())
def test_any_event_comes_back_from_its_bytes(event):
    assert decode(event.encode()) == event
    assert decode(bytearray(event.encode())) == event


@given(events(), st.data())
def test_an_event_without_a_field_it_must_have_is_refused(event, data):
    required = _FORMS[event.type, event.owner][0]
    if not required:
        return
    missing = data.draw(st.sampled_from(sorted(required)))
    fields = {name: value for name, value in event.fields.items() if name != missing}
    with pytest.raises(ProtocolError, match=missing):
        decode(Event(event.type, event.owner, fields).encode())


@given(events(), TEXT)
def test_an_event_with_a_field_more_is_refused(event, extra):
    allowed = {name for part in _FORMS[event.type, event.owner] for name in part} | {"type", "owner"}
    if extra in allowed:
        return
    with pytest.raises(ProtocolError):
        decode(Event(event.type, event.owner, {**event.fields, extra: 1}).encode())


@given(events(), st.data())
def test_a_truth_is_no_number_and_no_number_is_negative(event, data):
    numbers = sorted(name for name, value in event.fields.items() if type(value) is int)
    if not numbers:
        return
    name = data.draw(st.sampled_from(numbers))
    for bad in (True, -1, "1", None):
        kinds = {**_FORMS[event.type, event.owner][0], **_FORMS[event.type, event.owner][1]}[name]
        if type(bad) in kinds and bad != -1:
            continue
        with pytest.raises(ProtocolError, match=name):
            decode(Event(event.type, event.owner, {**event.fields, name: bad}).encode())


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(noise):
    """Also those that are nearly JSON."""
    for frame in (noise, noise + b"\n", b'{"type":"WRITE",' + noise + b"\n"):
        with pytest.raises(ProtocolError):
            decode(frame)


@pytest.mark.parametrize(
    "line",
    [b"", b"{}", b"[]", b"1", b'"WRITE"', b"null", b"\xff", "{}".encode("utf-16"), b"\xef\xbb\xbf{}", b"NaN", b"[" * 100_000],
)
def test_a_line_that_is_no_envelope_is_refused(line):
    """Rows 30-33 and 39."""
    with pytest.raises(ProtocolError):
        decode(line + b"\n")
    with pytest.raises(ProtocolError, match="line end"):
        decode(line.replace(b"\n", b""))


def test_every_owner_and_every_type_is_somewhere_in_the_table():
    assert {kind for kind, _ in _FORMS} == set(EventType)
    assert {owner for _, owner in _FORMS} == set(EventOwner)


def test_the_type_stands_first_so_that_a_person_can_read_a_line():
    event = Event(EventType.ACK, EventOwner.CONSUMER, {"number": 1, "ranges": []})
    assert event.line() == b'{"type":"ACK","owner":"CONSUMER","number":1,"ranges":[]}\n'
    assert orjson.loads(event.line())["owner"] == "CONSUMER"


def test_a_field_may_not_shadow_the_envelope():
    """Were `type` a field, an event could say that it is another one."""
    assert not any({"type", "owner"} & part.keys() for form in _FORMS.values() for part in form)

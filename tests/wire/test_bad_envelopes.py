"""Events with a field too few, too many, or of the wrong kind: the table of bad ones is made from the table of good ones."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from bad_bytes import PLACES
from raw_client import RawClient, envelope, stored

from dq.errors import ProtocolError
from dq.model.event import _FORMS, _PARTS, EventOwner, EventType, decode
from stage import until

Form = tuple[EventType, EventOwner]
GOOD: dict[type, Any] = {int: 1, float: 0.5, str: "x", list: [], dict: {}, bool: True, type(None): None}
FOREIGN = [None, True, 1, 1.5, "x", [], {}]
TOO_LARGE = 2**64
# What is said at each place. All other events are well formed, and not for who hears them there.
SAID_AT: dict[str, list[Form]] = {
    "a stranger": [
        (EventType.REGISTER, EventOwner(owner))
        for owner in ("CLIENT", "PUBLISHER", "CONSUMER", "READER", "LISTENER", "WATCHER")
    ],
    "a client": [(EventType(kind), EventOwner.CLIENT) for kind in ("OPEN", "CHANGE", "STATUS", "SHUTDOWN")],
    "a publisher": [(EventType(kind), EventOwner.PUBLISHER) for kind in ("WRITE", "CLOSE")],
    "a consumer": [(EventType(kind), EventOwner.CONSUMER) for kind in ("READ", "ACK", "NACK", "EXTEND", "CLOSE")],
    "a reader": [(EventType(kind), EventOwner.READER) for kind in ("REGISTER", "READ", "CLOSE")],
    "a listener": [(EventType(kind), EventOwner.LISTENER) for kind in ("WRITE", "ACK", "NACK", "STATUS", "CLOSE")],
}


class Bad(NamedTuple):
    """A bad event: its fields, and which of them the error must name."""

    named: str
    fields: dict[str, Any]


def good(form: Form) -> dict[str, Any]:
    """The least that an event of this form must carry."""
    required, _ = _FORMS[form]
    return {name: GOOD[kinds[0]] for name, kinds in required.items()}


def bad_events(form: Form) -> Iterator[Bad]:
    """Each field missing, of each wrong type, negative, too large, holding what it may not; and a field that there is not."""
    required, optional = _FORMS[form]
    fields = good(form)
    for name in required:
        yield Bad(name, {other: value for other, value in fields.items() if other != name})
    for name, kinds in {**required, **optional}.items():
        for value in FOREIGN:
            if type(value) not in kinds:
                yield Bad(name, {**fields, name: value})
        if int in kinds:
            yield Bad(name, {**fields, name: -1})
            if float not in kinds:
                yield Bad(name, {**fields, name: TOO_LARGE})
        if float in kinds:
            yield Bad(name, {**fields, name: -0.5})
        for part in FOREIGN:
            if name in _PARTS and type(part) not in _PARTS[name]:
                yield Bad(name, {**fields, name: [part] if list in kinds else {"x": part}})
    yield Bad("colour", {**fields, "colour": "red"})
    yield Bad("body", {**fields, "body": "x"})


def spoken(form: Form, bad: Bad) -> str:
    return f"{form[0]} of {form[1]}: {json.dumps(bad.fields)}"


ALL = [(place, form) for place, forms in SAID_AT.items() for form in forms]


@pytest.mark.usefixtures("others_unharmed")
@pytest.mark.parametrize(("place", "form"), ALL, ids=[f"{form[0]} of {form[1]}" for _, form in ALL])
def test_an_event_that_is_not_of_its_form_is_refused_with_the_name_of_the_field(broker, name, place, form):
    """Bad input 39, 35: missing, unknown, of a wrong type, `true` as a number, negative, 2^64."""
    kind, owner = map(str, form)
    bad_ones = list(bad_events(form))
    assert len(bad_ones) >= 2
    for bad in bad_ones:
        with PLACES[place](broker.root, name) as client:
            client.send(envelope(kind, owner, **bad.fields))
            answers = client.hear_end()
        assert [(answer["type"], answer["error"]) for answer in answers] == [("NACK", "ProtocolError")], spoken(form, bad)
        assert repr(bad.named) in answers[0]["message"], spoken(form, bad)
    assert stored(broker, name) == 0


@pytest.mark.usefixtures("others_unharmed")
@pytest.mark.parametrize("place", PLACES)
def test_a_word_of_somebody_else_is_refused(broker, name, place):
    """Bad input 39, 40: whatever brokers say to one another, a client may not say; nor a consumer what publishers say."""
    foreign = [form for form in _FORMS if form not in SAID_AT[place]]
    assert len(foreign) >= 20
    for form in foreign:
        with PLACES[place](broker.root, name) as client:
            client.send(envelope(*map(str, form), b'{"at":1,"payload":1}\n', **good(form)))
            answers = client.hear_end(2)  # (Needs `PublisherBroker._on_write` to look at the owner of a CLOSE.)
        assert [(answer["type"], answer["error"]) for answer in answers] == [("NACK", "ProtocolError")], form
        assert str(form[0]) in answers[0]["message"] or str(form[1]) in answers[0]["message"], form
    assert stored(broker, name) == 0


@pytest.mark.parametrize("form", _FORMS, ids=[f"{kind} of {owner}" for kind, owner in _FORMS])
def test_every_form_refuses_the_same_where_no_client_may_say_it(form):
    """Bad input 39: also what the processes of one broker say to one another."""
    assert decode(json.dumps({"type": form[0], "owner": form[1], **good(form)}).encode() + b"\n").type is form[0]
    for bad in bad_events(form):
        with pytest.raises(ProtocolError, match=bad.named):
            decode(json.dumps({"type": form[0], "owner": form[1], **bad.fields}).encode() + b"\n")


@pytest.mark.usefixtures("others_unharmed")
def test_all_pairs_of_type_and_owner_that_are_none_are_refused(broker):
    """Bad input 40: an unknown type, and a known one of somebody who does not say it. The connection is not kept."""
    kinds, owners = [*map(str, EventType), "PING", "", "write"], [*map(str, EventOwner), "ADMIN", "", "client"]
    strange = [pair for pair in itertools.product(kinds, owners) if pair not in {(str(k), str(o)) for k, o in _FORMS}]
    for kind, owner in strange:
        with RawClient(broker.root) as client:
            client.send(envelope(kind, owner))
            [answer] = client.hear_end()
            assert f"no event has type {kind!r} and owner {owner!r}" in answer["message"]


SETTINGS = {
    "an unknown one": ("PUBLISHER", {"colour": "red"}, "colour"),
    "no bucket": ("PUBLISHER", {"buckets": 0}, "buckets"),
    "too many buckets": ("PUBLISHER", {"buckets": 10**9}, "buckets"),
    "half a bucket": ("PUBLISHER", {"buckets": 1.5}, "buckets"),
    "a text for buckets": ("PUBLISHER", {"buckets": "4"}, "buckets"),
    "true for buckets": ("PUBLISHER", {"buckets": True}, "buckets"),
    "no such durability": ("PUBLISHER", {"durability": "none"}, "durability"),
    "a number for a durability": ("PUBLISHER", {"durability": 1}, "durability"),
    "no such backend": ("PUBLISHER", {"backend": "floppy"}, "backend"),
    "a tiny segment": ("PUBLISHER", {"segment_bytes": 1}, "segment_bytes"),
    "too much to keep": ("PUBLISHER", {"keep_seconds": 1e300}, "keep_seconds"),
    "an endless grace": ("CONSUMER", {"ack_grace": 1e300}, "ack_grace"),
    "no grace": ("CONSUMER", {"ack_grace": 0}, "ack_grace"),
    "no attempt": ("CONSUMER", {"max_attempts": 0}, "max_attempts"),
    "half an attempt": ("CONSUMER", {"max_attempts": 1.5}, "max_attempts"),
    "no such start": ("CONSUMER", {"start": "middle"}, "start"),
}


@pytest.mark.usefixtures("others_unharmed")
@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_of_no_sense_are_refused_by_name(broker, name, setting):
    """Bad input 39: well formed, and still nothing that a stream or a sink could be made with."""
    owner, settings, named = SETTINGS[setting]
    where = {"stream": name} if owner == "PUBLISHER" else {"sink": name, "streams": [], "create": True}
    with RawClient(broker.root) as client:
        client.send(envelope("REGISTER", owner, id="x-1", pid=1, settings=settings, **{"create": True, **where}))
        [answer] = client.hear_end()
    assert answer["type"] == "NACK"
    assert named in answer["message"] or str(settings[named]) in answer["message"]
    stats = broker.stats()
    assert name not in stats["publisher_broker"]["streams"]
    assert name not in stats["consumer_broker"]["sinks"]


NAMES = [
    "",
    ".",
    "..",
    "../../etc",
    "/etc",
    "a/b",
    ".hidden",
    "-rf",
    "a\0b",
    "a\nb",
    "orders\n",
    "x" * 129,
    "é",
    "\uff45",
    "a..b",
    "x" * 300_000,
]


@pytest.mark.usefixtures("others_unharmed")
@pytest.mark.parametrize("bad", NAMES, ids=[repr(text[:12]) for text in NAMES])
def test_a_name_that_is_none_is_refused_wherever_it_stands(broker, name, bad):
    """Bad input 39, 49: as a stream, a sink, an id; also one that is longer than what descriptors travel with."""
    ids = {"id": "x-1", "pid": 1, "create": True}
    hellos = [
        envelope("REGISTER", "PUBLISHER", **ids, stream=bad),
        envelope("REGISTER", "PUBLISHER", **{**ids, "id": bad}, stream=name),
        envelope("REGISTER", "CONSUMER", **ids, sink=bad, streams=[]),
        envelope("REGISTER", "CONSUMER", **ids, sink=name, streams=[bad]),
        envelope("REGISTER", "CONSUMER", **{**ids, "id": bad}, sink=name, streams=[]),
        envelope("REGISTER", "READER", id="x-1", pid=1, streams=[bad]),
        envelope("REGISTER", "READER", id=bad, pid=1, streams=[]),
    ]
    for hello in hellos:
        with RawClient(broker.root) as client:
            client.send(hello)
            [answer] = client.hear_end()
        assert (answer["type"], answer["error"]) == ("NACK", "InvalidName")
        assert len(answer["message"]) <= 2_000
    until(lambda: not {bad, "x-1"} & {client["id"] for client in broker.stats()["registered"]}, what="nobody remembers them")

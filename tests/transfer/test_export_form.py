"""Lines of a log as lines of an export, and what an import makes of lines, whoever wrote them."""

from __future__ import annotations

import base64

import orjson
import pytest

from dq.errors import NewerFormat
from dq.model.record import encode
from dq.transfer.entry import BadLine, Entries, Entry
from dq.transfer.form import record_lines


def exported(line: bytes, **options) -> dict:
    [made] = record_lines(line, 7, "orders/0", "orders", **options)
    assert made.endswith(b"}\n")
    assert made.count(b"\n") == 1
    return orjson.loads(made)


def entries(*lines: bytes | dict, into: str | None = None) -> list[Entry]:
    return list(Entries(into).of(line if isinstance(line, bytes) else orjson.dumps(line) for line in lines))


def test_a_record_is_taken_byte_by_byte() -> None:
    line = encode({"to": "ada", "n": 1.10}, 1763000000.25, key="k", headers={"a": "b"})
    [made] = record_lines(line, 7, "orders/0", "orders")
    assert made == b'{"id":"orders/0/7","stream":"orders",' + line[1:]


def test_a_priority_is_told_only_above_the_lowest() -> None:
    line = encode(1, 1.0)
    assert exported(line, priority=9)["priority"] == 9
    assert "priority" not in exported(line)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (b"no json\n", {"at": 0.0, "base64": base64.b64encode(b"no json").decode()}),
        (b"\xff\r\n", {"at": 0.0, "base64": base64.b64encode(b"\xff\r").decode()}),
        (b"[1,2]\n", {"at": 0.0, "payload": [1, 2]}),
        (b"1,2\n", {"at": 0.0, "base64": base64.b64encode(b"1,2").decode()}),
        (b'{"a":1}\n', {"at": 0.0, "payload": {"a": 1}}),
        (b'{"at":1.5,"id":"x","stream":"y","priority":3,"payload":4}\n', {"at": 1.5, "payload": 4}),
        (b'{ "at":1.5,"payload":4,"more":1}\n', {"at": 1.5, "payload": 4}),
    ],
    ids=repr,
)
def test_what_another_program_wrote_comes_as_a_record_all_the_same(line: bytes, told: dict) -> None:
    assert exported(line) == {"id": "orders/0/7", "stream": "orders", **told}


def test_a_record_that_was_delayed_says_where_it_waited_also_where_its_line_has_its_priority() -> None:
    line = b'{"at":1.5,"due":2.5,"priority":3,"payload":4,"from":"orders-later/0/9"}\n'
    told = {"at": 1.5, "due": 2.5, "payload": 4, "from": "orders-later/0/9"}
    assert exported(line, priority=3) == {"id": "orders/0/7", "stream": "orders", "priority": 3, **told}


def test_a_line_that_is_no_record_spoils_none_beside_it() -> None:
    lines = encode(1, 1.0) + b"x]\n" + encode(2, 2.0)
    made = [orjson.loads(line) for line in record_lines(lines, 0, "s/0", "s")]
    assert [(each["id"], each.get("payload")) for each in made] == [("s/0/0", 1), ("s/0/1", None), ("s/0/2", 2)]


def test_the_old_id_and_time_are_kept_in_headers() -> None:
    [entry] = entries({"id": "orders/2/17", "stream": "orders", "at": 1.5, "headers": {"x": "y"}, "payload": None})
    assert entry.headers == {"x": "y", "dq-import-id": "orders/2/17", "dq-import-time": "1.5"}
    assert (entry.stream, entry.source, entry.offset) == ("orders", ("", "orders/2"), 17)


def test_headers_that_have_these_names_already_are_kept_beside_them() -> None:
    mine = {"dq-import-id": "mine", "dq-import-before": "too", "a": "b"}
    [entry] = entries({"id": "s/0/1", "stream": "s", "headers": mine, "payload": 1})
    assert entry.headers["dq-import-id"] == "s/0/1"
    assert entry.headers["a"] == "b"
    assert orjson.loads(entry.headers["dq-import-before"]) == {"dq-import-id": "mine", "dq-import-before": "too"}


def test_a_record_that_was_delayed_counts_by_the_id_it_had_first() -> None:
    [entry] = entries({"id": "s/0/9", "from": "s-later/0/3", "payload": 1})
    assert (entry.stream, entry.source, entry.offset) == ("s", ("", "s-later/0"), 3)
    with pytest.raises(BadLine, match="say --stream s"):
        entries({"id": "s/0/9", "payload": 1}, into="s-later")


def test_what_tail_and_salvage_print_is_taken_too() -> None:
    record = {"at": 1.0, "key": "k", "base64": "AP8="}
    tail, salvaged = {"id": "s/0/1", **record}, {"verified": True, "id": "s/0/2", "publisher": "p", "record": record}
    found = entries(tail, b"\n", salvaged)
    assert [(each.number, each.stream, each.offset, each.key, each.payload) for each in found] == [
        (1, "s", 1, "k", b"\x00\xff"),
        (3, "s", 2, "k", b"\x00\xff"),
    ]


RECORD = {"stream": "s", "payload": 1}


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{", "is not JSON"),
        (b"[]", "no JSON object"),
        ({"to": "ada"}, "either a payload or base64"),
        ({**RECORD, "base64": "AA=="}, "either a payload or base64"),
        ({"stream": "s", "base64": "A*"}, "base64"),
        ({"stream": "s", "base64": 1}, "base64"),
        ({"payload": 1}, "say --stream"),
        ({**RECORD, "stream": ["s"]}, "cannot be imported"),
        ({**RECORD, "stream": 4}, "its stream"),
        ({**RECORD, "stream": "a/b"}, "cannot name a stream"),
        ({**RECORD, "id": "s/0"}, "STREAM/BUCKET/OFFSET"),
        ({**RECORD, "id": 7}, "STREAM/BUCKET/OFFSET"),
        ({**RECORD, "id": "s/0/" + "9" * 30}, "STREAM/BUCKET/OFFSET"),
        ({**RECORD, "key": 1}, "its key"),
        ({**RECORD, "name": 1}, "its name"),
        ({**RECORD, "topic": "a b"}, "cannot name a topic"),
        ({**RECORD, "headers": {"a": 1}}, "its headers"),
        ({**RECORD, "headers": ["a"]}, "its headers"),
        ({**RECORD, "at": "now"}, "its at"),
        ({**RECORD, "at": True}, "its at"),
        ({**RECORD, "expires": -1}, "its expires"),
        ({**RECORD, "due": 1e30}, "its due"),
        ({**RECORD, "priority": 10}, "its priority"),
        ({**RECORD, "payload": "x" * (8 << 20)}, "the most"),
        (b'{"stream":"s","payload":' + b"[" * 300 + b"]" * 300 + b"}", "JSON"),
        ({"verified": False, "record": {"payload": 1}}, "checksum"),
        ({"verified": True, "id": "s/0/1", "base64": "AA=="}, "no record"),
        ({"dq-export": 0}, "no such form"),
        ({"dq-export": 1, "streams": [1]}, "tells of a stream"),
        ({"dq-export": 1, "streams": 1}, "no list"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_a_line_that_cannot_be_imported_is_refused_by_its_number(line, why: str) -> None:
    with pytest.raises(BadLine, match=r"line 2 .*") as refused:
        entries({"stream": "s", "payload": 0}, line)
    assert why in str(refused.value)


def test_an_export_of_a_newer_version_is_no_bad_line() -> None:
    settings = {"dq-export": 1, "streams": [{"name": "s", "uuid": "u", "settings": {"colour": "red"}}]}
    for header in ({"dq-export": 2}, settings):
        with pytest.raises(NewerFormat, match=r"newer|does not know"):
            entries(header)

"""The bytes of a log: what is written is read back, and anything else is noticed."""

from __future__ import annotations

import zlib
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dq.errors import NewerFormat, ProtocolError
from dq.log.format import (
    FORMAT,
    HEADER_BYTES_MAX,
    SUFFIX_BYTES,
    Identity,
    Malformed,
    SegmentHeader,
    check_publisher,
    count_lines,
    decode_segment,
    encode_about,
    encode_batch,
    encode_segment,
    encode_topics,
    has_header_like,
    seal,
    segment_name,
    unseal,
)
from dq.log.scan import Seen, Walk

PUBLISHERS = st.from_regex(r"[A-Za-z0-9._:-]{1,160}", fullmatch=True)
OFFSETS = st.integers(0, 2**62)
CRCS = st.integers(0, 2**32 - 1)
LINES = st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"") + b"\n"), min_size=1, max_size=8).map(
    b"".join
)
IDENTITIES = st.builds(
    Identity, st.text(min_size=1), st.integers(0, 1023), st.text(), st.integers(0, 2**40), st.sampled_from(("stream", "sink"))
)


@given(OFFSETS, st.floats(0, 1e11), PUBLISHERS, OFFSETS, st.lists(st.text(max_size=20), max_size=16), CRCS, LINES)
def test_a_batch_is_read_as_it_was_written(
    first: int, at: float, publisher: str, sequence: int, topics: list[str], prev: int, lines: bytes
) -> None:
    checksum, count = zlib.crc32(lines), lines.count(b"\n")
    header, crc = encode_batch(first, count, len(lines), at, publisher, sequence, encode_topics(topics, 16), prev, checksum)
    seen: list[Seen] = []
    walk = Walk(first, f"{prev:08x}", len(lines))
    assert walk.over(b"before" + header + lines, 6, seen) == (6 + len(header) + len(lines), None)
    start, stop = 6 + len(header), 6 + len(header) + len(lines)
    named = tuple(orjson.loads(header)["topics"]) if "topics" in orjson.loads(header) else None
    assert seen == [(first, count, start, stop, publisher, sequence, checksum, float(f"{at:.3f}"), named, None)]
    assert (walk.offset, walk.crc) == (first + count, f"{crc:08x}")
    assert orjson.loads(header).get("topics", []) == topics


def test_what_a_batch_says_of_its_records_comes_back_and_what_is_no_object_says_nothing() -> None:
    line = b'{"at":1.0,"payload":1}\n'
    for extra, about in ((encode_about({"for": "s", "attempts": 2}), {"for": "s", "attempts": 2}), (b',"about":[1]', None)):
        header, _ = encode_batch(0, 1, len(line), 1.0, "ada", 0, extra, 0, zlib.crc32(line))
        seen: list[Seen] = []
        assert Walk(0, "00000000", 100).over(header + line, 0, seen) == (len(header + line), None)
        assert [batch[9] for batch in seen] == [about]
    with pytest.raises(ProtocolError):
        encode_about({"for": {1}})


@given(OFFSETS, IDENTITIES, st.integers(0, 2**33).map(float), CRCS, st.dictionaries(PUBLISHERS, st.lists(OFFSETS)))
def test_a_segment_header_is_read_as_it_was_written(
    first: int, identity: Identity, at: float, prev: int, publishers: dict[str, Any]
) -> None:
    header = SegmentHeader(first, identity, at, prev, publishers)
    line = encode_segment(header)
    assert decode_segment(line) == header
    assert line.startswith(b'{"segment":%d,"format":1,' % first)
    assert line.count(b"\n") == 1


def test_the_order_of_fields_is_the_canonical_one() -> None:
    line = encode_segment(SegmentHeader(7, Identity("emails", 0, "u", 1), 1763.125, 0, {}))
    assert line == (
        b'{"segment":7,"format":1,"stream":"emails","bucket":0,"uuid":"u","epoch":1,"at":1763.125,"prev":"00000000",'
        b'"publishers":{},"crc":"%08x"}\n' % zlib.crc32(line[:-SUFFIX_BYTES])
    )
    header, crc = encode_batch(7, 1, 3, 1763.125, "ada", 2, encode_topics(["a"], 16), 0xAB, zlib.crc32(b"12\n"))
    assert header == (
        b'{"batch":7,"count":1,"bytes":3,"at":1763.125,"publisher":"ada","seq":2,"topics":["a"],"prev":"000000ab","crc":"%08x"}\n'
        % crc
    )


def test_names_of_segments_sort_as_offsets() -> None:
    offsets = [0, 9, 10, 2**53, 2**63, 10**20 - 1]
    assert sorted(map(segment_name, reversed(offsets))) == [segment_name(offset) for offset in offsets]


@given(st.dictionaries(st.text(max_size=5).filter(lambda key: key != "crc"), st.integers(0, 9), max_size=3), st.data())
def test_no_changed_bit_of_a_sealed_line_goes_unseen(fields: dict[str, int], data: st.DataObject) -> None:
    line, crc = seal(orjson.dumps({"a": 1, **fields})[:-1])
    assert unseal(line) == ({"a": 1, **fields, "crc": f"{crc:08x}"}, crc)
    bit = data.draw(st.integers(0, 8 * len(line) - 1))
    spoiled = bytearray(line)
    spoiled[bit // 8] ^= 1 << bit % 8
    with pytest.raises(Malformed):
        unseal(bytes(spoiled))


@pytest.mark.parametrize(
    "head", [b"", b"[1", b'"a"', b"{" * 200_000, b'{"a":' + b"[" * 200_000, b"\xef\xbb\xbf{}", b'{"a":1}}']
)
def test_a_right_checksum_over_nonsense_is_malformed(head: bytes) -> None:
    with pytest.raises(Malformed):
        unseal(seal(head)[0])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("segment", "0"), ("segment", -1), ("segment", True), ("segment", 0.0), ("segment", None), ("segment", 2**70),
        ("format", "1"), ("format", 0), ("format", True), ("stream", 1), ("stream", None), ("bucket", "0"),
        ("bucket", -1),
        ("uuid", 7), ("epoch", 1.0), ("epoch", "1"), ("at", 1), ("at", "now"), ("prev", 0), ("prev", "0000000"),
        ("prev", "0000000G"), ("publishers", []), ("publishers", None),
    ],
)  # fmt: skip
def test_a_segment_header_with_a_wrong_field_is_malformed(field: str, value: object) -> None:
    fields = orjson.loads(encode_segment(SegmentHeader(0, Identity("emails", 0, "u", 1), 1.5, 0, {})))
    del fields["crc"]
    fields = {key: value if key == field else kept for key, kept in fields.items() if key != field or value is not None}
    content = orjson.dumps(fields) if value != 2**70 else orjson.dumps(fields | {field: 0}).replace(b":0", b":%d" % 2**70, 1)
    with pytest.raises(Malformed):
        decode_segment(seal(content[:-1])[0])


def test_a_newer_format_is_refused_as_that_whatever_its_checksum() -> None:
    line = encode_segment(SegmentHeader(0, Identity("emails", 0, "u", 1), 1.5, 0, {}))
    newer = line.replace(b'"format":1', b'"format":%d' % (FORMAT + 1))
    for candidate in (newer, newer.replace(b'"crc":', b'"sha":'), seal(newer[:-SUFFIX_BYTES])[0]):
        with pytest.raises(NewerFormat):
            decode_segment(candidate)


def test_fields_from_a_later_release_are_skipped() -> None:
    line = encode_segment(SegmentHeader(0, Identity("emails", 0, "u", 1), 1.5, 0, {}))
    assert decode_segment(seal(line[:-SUFFIX_BYTES] + b',"colour":"red"')[0]).first == 0
    header, _ = encode_batch(0, 1, 2, 1.5, "p", 0, b',"colour":{"r":1}', 0, zlib.crc32(b"1\n"))
    assert Walk(0, None, 100).over(header + b"1\n", 0, []) == (len(header) + 2, None)


@given(st.binary(max_size=300))
def test_lines_are_counted_by_their_newlines(lines: bytes) -> None:
    assert count_lines(lines) == lines.count(b"\n")


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (b'{"batch":1}\n', True),
        (b'1\n{"batch":\n', True),
        (b'1\n {"batch":1}\n', False),
        (b'1\n{"batch" :1}\n', False),
        (b"", False),
    ],
)
def test_a_line_that_begins_as_a_header_is_found(lines: bytes, found: bool) -> None:
    assert has_header_like(lines) is found


def test_too_many_topics_become_a_star() -> None:
    assert encode_topics([], 2) == b',"topics":[]'
    assert encode_topics(["a", "b"], 2) == b',"topics":["a","b"]'
    assert encode_topics(["a", "b", "c"], 2) == b',"topics":["*"]'


@pytest.mark.parametrize("publisher", ["", "a" * 161, "a b", 'a"b', "a\n", "a\\", "é"])
def test_a_publisher_that_needs_escaping_is_refused(publisher: str) -> None:
    with pytest.raises(ProtocolError):
        check_publisher(publisher)


def test_the_longest_header_that_dq_writes_is_within_the_limit() -> None:
    topics = encode_topics(["t" * 128] * 16, 16)
    header, _ = encode_batch(2**63, 10_000, 2**23, 1e10, "p" * 160, 2**63, topics + b',"synced":%d' % 2**63, 2**32 - 1, 0)
    assert len(header) < HEADER_BYTES_MAX / 4

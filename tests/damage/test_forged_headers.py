"""Bad input 15, 16, 17 and 20: headers under right checksums that dq never wrote. Damage or a newer format, no other error."""

from __future__ import annotations

import re

import orjson
import pytest
from damage_bench import fresh
from hypothesis import given
from hypothesis import strategies as st
from log_rig import UUID, Rig, read_all, record, records, sealed
from nonsense import DEPTHS, JSON, VALUES, nested, with_field, with_fields

from dq.errors import Damaged, LogError, NewerFormat
from dq.log.bucket_log import BucketLog
from dq.log.format import (
    FORMAT,
    SUFFIX_BYTES,
    Identity,
    Malformed,
    SegmentHeader,
    decode_segment,
    encode_segment,
    seal,
)
from dq.log.reader import BucketReader
from dq.log.scan import Flaw, Walk, confirmed_after
from dq.log.storage import Batch, End

BATCH = {"batch": 4, "count": 1, "bytes": len(record(4)), "at": 1.5, "publisher": "p", "seq": 0, "prev": ""}
SEGMENT = ("segment", "format", "stream", "bucket", "uuid", "epoch", "at", "prev", "publishers")
FREE = {"at": float, "publisher": str, "seq": int}
"""Fields of a batch header that may have any value of their type."""


@pytest.fixture(scope="module")
def small() -> tuple[dict[str, bytes], str, End]:
    """A log of one segment with four records, the checksum of its last batch, and its end."""
    rig = fresh({})
    log = rig.open()
    rig.fill(log, 2)
    [path] = rig.segments()
    return {path.name: rig.files.read_whole(path, 1 << 20)}, f"{log._crc:08x}", log.end


def opened(rig: Rig) -> BucketLog | None:
    """The log; None where it is refused, and then nothing is changed."""
    before = {path: rig.files.read_whole(path, 1 << 30) for path in rig.segments()}
    try:
        return rig.open()
    except (Damaged, NewerFormat) as error:
        message = str(error)
    assert str(rig.directory) in message
    assert len(message) < 2_000
    assert {path: rig.files.read_whole(path, 1 << 30) for path in rig.segments()} == before
    assert rig.kept_away() == []
    return None


def read_alone(rig: Rig, end: End) -> bytes | None:
    """What a reader serves of it that was told this end; None where it refuses."""
    reader = BucketReader(rig.files, rig.directory)
    reader.advance(end)
    try:
        return read_all(reader, 0, end.offset)
    except LogError:
        return None


# --- batches -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("field", BATCH)
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_a_batch_header_with_nonsense_is_damage(small, field: str, value: bytes) -> None:
    """Bad input 16, 20: any field missing, of a wrong type, negative, a float, a bool, huge or deep."""
    [(name, content)], crc, end = small[0].items(), small[1], small[2]
    batch = sealed(with_field({**BATCH, "prev": crc}, field, value), record(4))
    rig = fresh({name: content + batch})
    try:
        decoded = orjson.loads(value)
    except orjson.JSONDecodeError:
        decoded = None
    fits = type(decoded) is FREE.get(field) and (field != "seq" or decoded >= 0)
    log = opened(rig)
    served = read_alone(rig, End(5, 0, end.position + len(batch)))
    assert (log is not None, served is not None) == (fits, fits)
    if log is not None:
        assert log.end.offset == 5
        assert read_all(rig.reader(log.end), 0, 5) == served == records(0, 5)
        # And what is told of it in the next segment can be read again.
        log = rig.open(segment_bytes=1)
        log.append(Batch("q", 0, 1, record(5)))
        log.commit()
        assert rig.open().end.offset == 6


@pytest.mark.parametrize(
    "head",
    [
        b"", b"not json", b"[4]", b'"batch"', b"4", b"null", b'{"batch":4', b"{" * 15_000, b'{"batch":' + nested(15_000),
        b"\xef\xbb\xbf{",
    ],
    ids=lambda head: repr(head[:12]),
)  # fmt: skip
def test_a_batch_header_that_is_no_json_is_damage(small, head: bytes) -> None:
    """Bad input 15: not a JSON object, and its checksum says that all is well."""
    [(name, content)], _, end = small[0].items(), small[1], small[2]
    batch = sealed(head, record(4))
    rig = fresh({name: content + batch})
    assert opened(rig) is None
    assert read_alone(rig, End(5, 0, end.position + len(batch))) is None


@pytest.mark.parametrize("extra", [*VALUES.values()], ids=VALUES)
@pytest.mark.parametrize("field", ["colour", "topics", "synced"])
def test_optional_fields_of_a_batch_header_are_skipped(small, field: str, extra: bytes) -> None:
    """Bad input 17: what an older reader may skip it skips, whatever it is, as long as it is JSON of a depth it can read."""
    [(name, content)], crc, _ = small[0].items(), small[1], small[2]
    rig = fresh({name: content + sealed(with_field({**BATCH, "prev": crc}, field, extra), record(4))})
    try:
        readable = not extra or bool(orjson.loads(b'{"":%s}' % extra))
    except orjson.JSONDecodeError:
        readable = False
    log = opened(rig)
    assert (log is not None) is readable
    if log is not None:
        assert read_all(rig.reader(log.end), 0, 5) == records(0, 5)


@pytest.mark.parametrize("depth", DEPTHS[:-1])
def test_a_deep_header_behind_a_torn_batch_is_passed_over(small, depth: int) -> None:
    """Bad input 20: the search for what was written later meets it too."""
    [(name, content)] = small[0].items()
    forged = sealed(b'{"batch":%s,"count":1,"bytes":%d' % (nested(depth), len(record(0))), record(0))
    tail = (
        b'{"batch":4,"count":100,"bytes":90000,"at":1.5,"publisher":"p","seq":0,"prev":"00000000","crc":"00000000"}\n' + forged
    )
    assert confirmed_after(tail, 4, 1 << 20) is None
    log = opened(fresh({name: content + tail}))
    assert log is not None
    assert log.end.offset == 4


# --- segments ----------------------------------------------------------------------------------------------------------
def segment_of(small, field: str, value: bytes, position: str) -> Rig:
    [(name, content)] = small[0].items()
    line, rest = content.split(b"\n", 1)
    fields = orjson.loads(line)
    del fields["crc"]
    rest = b"" if position == "header alone" else rest
    return fresh({name: seal(with_field(fields, field, value))[0] + rest})


@pytest.mark.parametrize("position", ["header alone", "with batches"])
@pytest.mark.parametrize("field", SEGMENT)
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_a_segment_header_with_nonsense_is_refused(small, field: str, value: bytes, position: str) -> None:
    """Bad input 16, 20: no field of it can be anything but what was written, but for its time and its windows."""
    rig = segment_of(small, field, value, position)
    fits = (field, value) in {("at", b"1.5"), ("at", b"1.0"), ("at", b"1e308"), ("at", b"-0.0"), ("publishers", b"{}")}
    fits = fits or (
        field == "at" and value in (b"%d" % 2**64, b"1%s" % (b"0" * 4_000)) and type(orjson_or_none(value)) is float
    )
    assert (opened(rig) is not None) is fits
    assert (read_alone(rig, End(4, 0, rig.files.state(rig.segments()[0]).st_size)) is None) or position == "with batches"


def orjson_or_none(value: bytes) -> object:
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return None


@pytest.mark.parametrize("place", ["window", "heard", "last", "numbers", "number"])
@pytest.mark.parametrize("value", [value for value in VALUES.values() if value], ids=[name for name in VALUES if VALUES[name]])
def test_windows_with_nonsense_are_refused(small, place: str, value: bytes) -> None:
    """Bad input 16, 20: the windows of publishers in a segment's header."""
    forms = {
        "window": b"%s",
        "heard": b"[%s,1,[7,0,1]]",
        "last": b"[1.5,%s,[7,0,1]]",
        "numbers": b"[1.5,1,%s]",
        "number": b"[1.5,1,[7,%s,1]]",
    }
    rig = segment_of(small, "publishers", b'{"ada":%s}' % (forms[place] % value), "with batches")
    decoded = orjson_or_none(value)
    wanted = {"heard": float, "last": int, "number": int}.get(place)
    fits = type(decoded) is wanted and (wanted is float or decoded >= 0)
    assert (opened(rig) is not None) is fits


@pytest.mark.parametrize(
    "windows",
    [
        b'{"ada":{"a":1,"b":2,"c":3}}', b'{"ada":[1.5,1,{}]}', b'{"ada":[1.5,1,"abc"]}', b'{"ada":[1.5,1,[7,0]]}',
        b'{"ada":[1.5,1,[]]}',
    ],
)  # fmt: skip
def test_windows_of_a_wrong_form_are_refused(small, windows: bytes) -> None:
    """Bad input 16: objects and texts where lists are expected, and lists that are no triples."""
    assert opened(segment_of(small, "publishers", windows, "with batches")) is None


@pytest.mark.parametrize("number", [FORMAT + 1, 999, 2**64 - 1])
@pytest.mark.parametrize("spoiled", [False, True], ids=["whole", "with another checksum"])
def test_a_newer_format_is_named_as_that(small, number: int, spoiled: bool) -> None:
    """Bad input 17, R7: never damage, never repaired, whatever its checksum is by then."""
    rig = segment_of(small, "format", b"%d" % number, "with batches")
    [path] = rig.segments()
    if spoiled:
        content = rig.files.read_whole(path, 1 << 20)
        rig = fresh({path.name: re.sub(rb'"crc":"[0-9a-f]{8}"', b'"blake3":"00"', content, count=1)})
    with pytest.raises(NewerFormat, match=re.escape(str(path))) as refused:
        rig.open()
    assert "nothing is damaged" in str(refused.value)


@pytest.mark.parametrize(
    "end", [b',"crc":"0000000g"}\n', b',"crc32c":"00000000"}\n', b',"crc":"blake3:00"}\n', b',"crc":0}\n', b"}\n"]
)
@pytest.mark.parametrize("line", ["segment", "batch"])
def test_a_checksum_of_an_unknown_kind_is_refused(small, end: bytes, line: str) -> None:
    """Bad input 17, R7: this format has one."""
    [(name, content)] = small[0].items()
    begin = 0 if line == "segment" else content.rindex(b'{"batch":')
    stop = content.index(b"\n", begin) + 1
    assert opened(fresh({name: content[: stop - SUFFIX_BYTES] + end + content[stop:]})) is None


def test_unknown_fields_of_a_segment_header_are_skipped(small) -> None:
    """Bad input 17: a field that an older reader may skip."""
    for value in (b"null", b'{"must":true}', nested(90), b'"x"', b'"%s"' % (b"[" * 500)):
        log = opened(segment_of(small, "colour", value, "with batches"))
        assert log is not None
        assert log.end.offset == 4


@pytest.mark.parametrize("first", [2**53 + 1, 2**62])
def test_offsets_up_to_the_greatest_work(first: int) -> None:
    """Bad input 19: beyond 2**53 dq counts on exactly (jq does not, it shows the nearest float)."""
    head = encode_segment(SegmentHeader(first, Identity("emails", 0, "u", 1), 1.5, 0, {}))
    assert decode_segment(head).first == first


@pytest.mark.parametrize("first", [2**62 + 1, 2**63 - 1, 2**63, 2**64 - 1])
def test_offsets_that_cannot_be_are_refused(first: int) -> None:
    """Bad input 19: near 2**63 the numbers of a log would not fit into what JSON readers and dq's own index hold."""
    head = encode_segment(SegmentHeader(first, Identity("emails", 0, UUID, 1), 1.5, 0, {}))
    assert opened(fresh({f"{first:020d}.jsonl": head})) is None


# --- anything at all ---------------------------------------------------------------------------------------------------
HEADS = st.binary(max_size=200) | st.dictionaries(
    st.sampled_from([*BATCH, "synced", "crc", "topics"]),
    st.sampled_from([b"1", b"0", b"4", b"1.5", b'"p"', b'"00000000"']) | JSON,
).map(with_fields)


@given(HEADS, st.binary(max_size=60), st.booleans(), st.integers(0, 40))
def test_a_walk_over_anything_says_where_it_stopped(head: bytes, lines: bytes, right: bool, start: int) -> None:
    """Bad input 15, 16, 20: for bytes of any kind, under a right checksum or not."""
    content = bytes(start) + (sealed(head, lines) if right else head + lines)
    seen: list = []
    stopped, broken = Walk(4, "00000000", 1 << 20).over(content, start, seen)
    assert start <= stopped <= len(content)
    assert (broken is None) is (stopped == len(content))
    assert broken is None or broken.flaw in Flaw
    assert broken is None or len(broken.why) < 1_000
    assert confirmed_after(content, 0, 1 << 20) is None or b'{"batch":' in content


@given(st.dictionaries(st.sampled_from([*SEGMENT[1:], "sink", "x"]), JSON), st.just(b"0") | JSON, st.booleans())
def test_a_segment_header_of_anything_is_read_or_malformed(fields: dict, first: bytes, right: bool) -> None:
    """Bad input 15, 16, 20: any object, sealed or not."""
    head = with_fields({"segment": first, **fields})
    try:
        header = decode_segment(seal(head)[0] if right else head + b"}\n")
    except (Malformed, NewerFormat) as error:
        why = str(error)
    else:
        why = header.identity.uuid
        assert right
        assert header.identity.epoch >= 0
    assert len(why) < 1_000


@given(st.binary(max_size=400), st.booleans())
def test_a_segment_of_any_bytes_is_opened_or_refused(content: bytes, whole_header: bool) -> None:
    """Bad input 1 to 17: whatever stands in the one segment there is, only LogErrors come out, and it opens again as it did."""
    head = encode_segment(SegmentHeader(0, Identity("emails", 0, UUID, 1), 1.5, 0, {})) if whole_header else b""
    rig = fresh({f"{0:020d}.jsonl": head + content})
    log = opened(rig)
    if log is not None:
        assert log.end.offset == 0 or content.startswith(b'{"batch":')
        again = rig.open()
        assert (again.end, again.report.torn_bytes) == (log.end, 0)
        assert b"".join([*(rig.files.read_whole(path, 1 << 20) for path in rig.segments()), *rig.kept_away()]) == head + content

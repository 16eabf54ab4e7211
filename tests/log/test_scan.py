"""The walk over batches: whole ones in their place pass, everything else is named."""

from __future__ import annotations

import zlib

import pytest
from log_rig import batch_bytes, record, records, sealed

from dq.log.format import HEADER_BYTES_MAX
from dq.log.scan import Flaw, Walk, begins_like, confirmed_after, has_hole

HEAD = b'{"batch":0,"count":1,"bytes":2,"at":1.5,"publisher":"p","seq":0,"prev":"00000000"'


def flaw_of(content: bytes, size_max: int = 1000) -> Flaw | None:
    _, broken = Walk(0, "00000000", size_max).over(content, 0, [])
    return broken and broken.flaw


def test_a_whole_batch_passes() -> None:
    assert flaw_of(batch_bytes(0, records(0, 3))) is None
    assert flaw_of(sealed(HEAD, b"1\n")) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"batch":0', b'"batch":1'), (b'"batch":0', b'"batch":"0"'), (b'"batch":0', b'"batch":0.0'),
        (b'"batch":0', b'"batch":-0.0'),
        (b'"batch":0', b'"batch":false'), (b'"batch":0', b'"batch":-1'), (b'"count":1', b'"count":0'),
        (b'"count":1', b'"count":2'),
        (b'"count":1', b'"count":-1'), (b'"count":1', b'"count":true'), (b'"count":1', b'"count":1.0'),
        (b'"at":1.5', b'"at":1'),
        (b'"at":1.5', b'"at":"1.5"'), (b'"at":1.5', b'"at":null'), (b'"publisher":"p"', b'"publisher":7'),
        (b'"publisher":"p"', b'"publisher":null'), (b'"seq":0', b'"seq":-1'), (b'"seq":0', b'"seq":"0"'),
        (b'"seq":0', b'"seq":false'),
        (b'"prev":"00000000"', b'"prev":"00000001"'), (b'"prev":"00000000"', b'"prev":0'),
    ],
)  # fmt: skip
def test_a_right_checksum_over_a_wrong_field_does_not_pass(old: bytes, new: bytes) -> None:
    assert flaw_of(sealed(HEAD.replace(old, new), b"1\n")) is Flaw.PLACE


@pytest.mark.parametrize(
    "head",
    [
        b"", b"not json", b"[1,2]", b'"text"', b"7", b'{"batch":0', HEAD.replace(b'"seq":0,', b""),
        HEAD.replace(b'"count":1,', b""),
        HEAD.replace(b'"bytes":2', b'"bytes":"2"'), HEAD.replace(b'"bytes":2', b'"bytes":-2'),
        HEAD.replace(b'"bytes":2', b'"bytes":2.0'),
        HEAD.replace(b'"bytes":2', b'"bytes":true'), HEAD.replace(b'"bytes":2', b'"bytes":1001'),
        b"{" * 1500, b"[" * 16_000,
        b"\xef\xbb\xbf" + HEAD,
    ],
)  # fmt: skip
def test_a_header_that_is_no_header_is_named_so_whatever_its_checksum(head: bytes) -> None:
    assert flaw_of(sealed(head, b"1\n")) is Flaw.HEADER


def test_a_last_line_without_newline_does_not_pass() -> None:
    assert flaw_of(sealed(HEAD.replace(b'"bytes":2', b'"bytes":3'), b"1\n2")) is Flaw.PLACE


def test_a_line_without_end_is_not_looked_at_for_long() -> None:
    assert flaw_of(b'{"batch":' + b"x" * HEADER_BYTES_MAX) is Flaw.HEADER
    assert flaw_of(b'{"batch":' + b"x" * (HEADER_BYTES_MAX - 10)) is Flaw.SHORT


def test_a_batch_that_is_cut_says_what_it_needs() -> None:
    content = batch_bytes(0, records(0, 3))
    for length in range(1, len(content)):
        walk = Walk(0, "00000000", 1000)
        taken, broken = walk.over(content[:length], 0, [])
        assert broken is not None
        assert (taken, broken.flaw) == (0, Flaw.SHORT)
        assert broken.need in (0, len(content))


@pytest.mark.parametrize(
    ("content", "position", "found"),
    [
        (b"\0", 0, True), (b"abc\0", 0, False), (b"abc" + b"\0" * 509 + b"\0", 0, True),
        (b"a" * 512 + b"\0" * 3, 0, True),
        (b"a" * 500 + b"\0" * 500 + b"a" * 600, 0, False), (b"a" * 500 + b"\0" * 524 + b"a", 0, True),
        (b"\0" * 12 + b"a", 500, True),
        (b"\0" * 11 + b"a", 500, False), (b"abc\0\n", 7, False), (b"abcd", 511, False),
    ],
)  # fmt: skip
def test_a_hole_is_a_sector_that_is_nul(content: bytes, position: int, found: bool) -> None:
    assert has_hole(content, position) is found


def test_a_batch_that_was_written_after_others_were_on_disk_is_found() -> None:
    later = batch_bytes(9, records(9, 1))
    same_commit = batch_bytes(9, records(9, 1), extra=b',"synced":3')
    for before in (b"", b"garbage\n", record(0) + record(1), batch_bytes(5, records(5, 1))[:-10] + b"\n"):
        assert confirmed_after(before + later, 3, 1000) == 9
        assert confirmed_after(before + same_commit, 3, 1000) is None
        assert confirmed_after(before + later[:-1], 3, 1000) is None
        assert confirmed_after(before + later.replace(b"x", b"y", 1), 9, 1000) is None


def test_what_begins_as_a_header_may_be_a_part_of_one() -> None:
    assert all(begins_like(batch_bytes(0, b"1\n")[:length]) for length in range(60))
    assert not begins_like(b"garbage")


def test_the_checksum_of_the_lines_is_what_windows_keep() -> None:
    seen: list[tuple[int, int, int, int, str, int, int, float]] = []
    Walk(0, None, 1000).over(batch_bytes(0, b"12\n3\n"), 0, seen)
    assert seen[0][6] == zlib.crc32(b"12\n3\n")

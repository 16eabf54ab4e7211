"""Bad input 1 to 14 and 19, recovery rules R1 to R8: what can stand in the place of a segment, one row a test."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path

import pytest
from damage_bench import Judge, Window, fresh, parsed
from log_rig import Rig, read_all, record, records
from spoiling import FIRST, LAST, MIDDLE, Change, begins, goes_on, new_file, refused, spoil

from dq.config import KIB, MIB
from dq.errors import Damaged, LogError
from dq.log.catalog import Catalog
from dq.log.files import Files
from dq.log.format import Identity, SegmentHeader, decode_segment, encode_segment
from dq.log.layout import Layout
from dq.log.reader import BucketReader
from dq.log.storage import Batch, End
from dq.model.settings import StreamSettings


# --- 1 to 4 ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("content", [b"", b"\0", b"\0" * 4096])
def test_an_empty_last_segment_is_moved_aside(three: Rig, content: bytes) -> None:
    """Bad input 1, R5: it was being begun; its name is where the log ends."""
    path = new_file(three.directory / f"{60:020d}.jsonl", content)
    log = three.open()
    assert log.end.offset == 60
    assert log.report.quarantined is not None
    assert three.kept_away() == [content]
    assert not path.exists()
    goes_on(three, log)


@pytest.mark.parametrize("content", [b"", b"\0" * 4096])
@pytest.mark.parametrize("which", [FIRST, MIDDLE])
def test_an_empty_segment_before_the_last_is_refused(three: Rig, which: int, content: bytes) -> None:
    """Bad input 1, R4: what it held was on disk before the next one was begun."""
    path = three.segments()[which]
    path.write_bytes(content)
    assert str(path) in refused(three)


@pytest.mark.parametrize("content", [b"", b"\0" * 4096])
def test_an_empty_last_segment_at_another_place_than_the_end_is_refused(three: Rig, content: bytes) -> None:
    """Bad input 1, R5: a name beyond the end says that something is missing between."""
    new_file(three.directory / f"{61:020d}.jsonl", content)
    refused(three)


def test_a_segment_of_its_header_alone_is_an_empty_one(three: Rig) -> None:
    """Bad input 2: a valid, empty segment at the end of the log."""
    log = three.open()
    identity = log.identity
    head = encode_segment(SegmentHeader(60, identity, 1.5, log._crc, {}))
    log.close()
    new_file(three.directory / f"{60:020d}.jsonl", head)
    log = three.open()
    assert (log.end, log.report.torn_bytes) == (End(60, 60, len(head)), 0)
    goes_on(three, log)


def test_a_header_alone_before_the_last_segment_is_refused(three: Rig) -> None:
    """Bad input 2, R4: the next segment begins where its records are missing."""
    path = three.segments()[MIDDLE]
    spoil(path, lambda content: content[: content.index(b"\n") + 1])
    refused(three)


def memory_three() -> tuple[Rig, dict[str, bytes]]:
    """Three segments in memory, the last one of its header and one commit."""
    rig = fresh({})
    log = rig.open(segment_bytes=2600)
    while len(rig.segments()) < 3:
        rig.fill(log, 1)
    return rig, {path.name: rig.files.read_whole(path, 1 << 20) for path in rig.segments()}


def test_a_last_header_cut_at_any_byte_is_moved_aside() -> None:
    """Bad input 3, R5: at every byte of it."""
    _, files = memory_three()
    last = max(files)
    head = files[last][: files[last].index(b"\n") + 1]
    for size in range(len(head)):
        rig = fresh({**files, last: head[:size]})
        log = rig.open()
        assert log.end.offset == int(Path(last).stem), size
        assert rig.kept_away() == [head[:size]], size
        assert read_all(rig.reader(log.end), 0, log.end.offset) == records(0, log.end.offset)


@pytest.mark.parametrize("which", [FIRST, MIDDLE])
def test_a_header_cut_at_any_byte_before_the_last_segment_is_refused(which: int) -> None:
    """Bad input 3, R4: at every byte of it, with nothing behind it and with the batches behind it."""
    _, files = memory_three()
    name = sorted(files)[which]
    length = files[name].index(b"\n") + 1
    for size in range(length):
        for rest in (b"", files[name][length:]):
            rig = fresh({**files, name: files[name][:size] + rest})
            with pytest.raises(Damaged, match=name):
                rig.open()
            assert rig.kept_away() == []


# --- 5 -----------------------------------------------------------------------------------------------------------------
def test_a_size_that_is_wrong_by_a_bit_is_no_torn_tail(three: Rig) -> None:
    """Bad input 5, R3: all lines of the last batch are there, so it is its size that was turned, and nothing is cut."""
    path = three.segments()[LAST]
    content = path.read_bytes()
    begin = content.index(b'"bytes":', content.rindex(b'{"batch":')) + len('"bytes":')
    digits = range(begin, content.index(b",", begin))
    turned = 0
    for place in digits:
        for bit in range(8):
            spoiled = bytearray(content)
            spoiled[place] ^= 1 << bit
            path.write_bytes(spoiled)
            refused(three)
            turned += 1
    assert turned == 8 * len(digits) >= 16


# --- 7, 8 --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [1, 511, 512, 4 * KIB, 1 * MIB, 16 * MIB])
def test_a_tail_of_nuls_is_torn(three: Rig, size: int) -> None:
    """Bad input 7, R1: up to what one commit can have."""
    path = three.segments()[LAST]
    end = path.stat().st_size
    os.truncate(path, end + size)
    log = three.open()
    assert (log.end.offset, log.report.torn_bytes, path.stat().st_size) == (60, size, end)
    [kept] = three.kept_away()
    assert kept == bytes(size)
    goes_on(three, log)


@pytest.mark.parametrize("size", [16 * MIB + 16 * KIB + 1, 64 * MIB])
def test_a_tail_of_nuls_that_no_commit_can_have_is_refused(three: Rig, size: int) -> None:
    """Bad input 7, R2: one unconfirmed commit cannot be larger: 4 MiB, and a record as large as any that is kept."""
    path = three.segments()[LAST]
    end = path.stat().st_size
    os.truncate(path, end + size)
    with pytest.raises(Damaged, match="more than can be unconfirmed"):
        three.open()
    assert path.stat().st_size == end + size
    assert three.kept_away() == []


def test_old_blocks_of_the_same_log_behind_its_end_are_refused(three: Rig) -> None:
    """Bad input 8: whole batches of before, from the same file or from another one, or all of a segment."""
    path = three.segments()[LAST]
    whole = path.read_bytes()
    for source in three.segments():
        content, places = source.read_bytes(), begins(source)
        for begin in (0, *places[:-1:5]):
            path.write_bytes(whole + content[begin:])
            refused(three)
    path.write_bytes(whole)
    assert three.open().end.offset == 60


# --- 9, 10 -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("which", [FIRST, MIDDLE, LAST])
def test_doubled_swapped_and_removed_batches_are_refused(three: Rig, which: int) -> None:
    """Bad input 9: each batch of a segment twice, each two neighbours exchanged, each one but the last left out."""
    path = three.segments()[which]
    content, places = path.read_bytes(), begins(path)
    head, parts = content[: places[0]], [content[a:b] for a, b in pairwise(places)]
    for at in range(len(parts)):
        spoiled = [
            parts[: at + 1] + parts[at:],
            parts[:at] + parts[at : at + 2][::-1] + parts[at + 2 :],
            parts[:at] + parts[at + 1 :],
        ]
        for batches in spoiled[: 1 if at == len(parts) - 1 else 3]:
            path.write_bytes(head + b"".join(batches))
            refused(three)


def test_a_last_batch_that_is_gone_leaves_a_shorter_log(three: Rig) -> None:
    """Bad input 10: a file cannot show it. Nothing is torn, and a sink that was given more is ahead of the log."""
    path = three.segments()[LAST]
    os.truncate(path, begins(path)[-2])
    log = three.open()
    assert (log.end.offset, log.report.torn_bytes) == (58, 0)
    assert three.kept_away() == []
    reader = BucketReader(three.files, three.directory)
    reader.advance(End(60, int(path.stem), path.stat().st_size + 200))
    with pytest.raises(LogError):
        read_all(reader, 0, 60)


# --- 11, 12 ------------------------------------------------------------------------------------------------------------
def test_a_missing_middle_segment_is_refused_by_both_names(three: Rig) -> None:
    """Bad input 11, R4."""
    before, gone, after = three.segments()
    gone.unlink()
    message = refused(three)
    assert before.name in message
    assert after.name in message


@pytest.mark.parametrize("by", [-1, 1, 2, 1000])
@pytest.mark.parametrize("which", [MIDDLE, LAST])
@pytest.mark.parametrize("honest", [False, True], ids=["renamed", "with a header to match"])
def test_overlapping_segments_and_gaps_are_refused(three: Rig, by: int, which: int, honest: bool) -> None:
    """Bad input 11, R4: a segment that begins before the one before it ends, or after."""
    path = three.segments()[which]
    before = three.segments()[which - 1]
    moved = path.rename(path.with_name(f"{int(path.stem) + by:020d}.jsonl"))
    if honest:
        line, rest = moved.read_bytes().split(b"\n", 1)
        header = decode_segment(line + b"\n")
        again = SegmentHeader(int(moved.stem), header.identity, header.at, header.prev, header.publishers)
        moved.write_bytes(encode_segment(again) + rest)
    message = refused(three)
    at_fault = moved.name if moved == three.segments()[which] else three.segments()[which].name  # it has become the last one
    assert at_fault in message
    assert not honest or three.segments()[which - 1].name in message or before.name in message


OTHERS = {
    "stream": {"stream": "orders"}, "bucket": {"bucket": 1}, "uuid": {"uuid": "another"}, "kind": {"kind": "sink"},
    "epoch of the future": {"epoch": 9}, "epoch that falls": {"epoch": 0},
}  # fmt: skip


@pytest.mark.parametrize("which", [FIRST, MIDDLE, LAST])
@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_a_segment_of_another_log_is_refused(three: Rig, other: dict, which: int) -> None:
    """Bad input 12, R8: its batches fit to the byte, its identity does not."""
    path = three.segments()[which]
    line, rest = path.read_bytes().split(b"\n", 1)
    header = decode_segment(line + b"\n")
    ours = {"stream": "emails", "bucket": 0, "uuid": header.identity.uuid, "epoch": 1, "kind": "stream"}
    foreign = SegmentHeader(header.first, Identity(**{**ours, **other}), header.at, header.prev, header.publishers)
    path.write_bytes(encode_segment(foreign) + rest)
    if (which, other) == (FIRST, {"epoch": 0}):
        assert three.open().end.offset == 60  # the epoch rises after it, as it may
    else:
        refused(three, "is of|epoch")


# --- 13, 14 ------------------------------------------------------------------------------------------------------------
def pretty(content: bytes) -> bytes:
    """As an editor or a formatter saves JSON."""
    return b"\n".join(json.dumps(json.loads(line), indent=2).encode() for line in content.splitlines()) + b"\n"


EDITS: dict[str, Change] = {
    "CRLF": lambda content: content.replace(b"\n", b"\r\n"),
    "BOM": lambda content: b"\xef\xbb\xbf" + content,
    "UTF-16": lambda content: content.decode().encode("utf-16"),
    "pretty-printed": pretty,
    "spaces": lambda content: b"".join(json.dumps(json.loads(line)).encode() + b"\n" for line in content.splitlines()),
    "a newline more": lambda content: content + b"\n",
    "the newline of the header line gone": lambda content: content.replace(b"\n", b"", 1),
    "a newline before": lambda content: b"\n" + content,
    "sorted lines": lambda content: b"".join(sorted(content.splitlines(keepends=True))),
}


@pytest.mark.parametrize("which", [FIRST, MIDDLE, LAST])
@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_a_file_that_was_saved_by_an_editor_is_refused(three: Rig, edit: Change, which: int) -> None:
    """Bad input 13, 14: line ends, marks, forms."""
    spoil(three.segments()[which], edit)
    refused(three)


def test_a_last_newline_that_an_editor_took_is_a_torn_tail(three: Rig) -> None:
    """Bad input 14, R1: to the byte what a kill leaves, and so it is treated; in any segment before, it is refused."""
    path = three.segments()[LAST]
    start = begins(path)[-2]
    spoil(path, lambda content: content[:-1])
    tail = path.read_bytes()[start:]
    log = three.open()
    assert log.end.offset == 58
    assert three.kept_away() == [tail]
    log.close()
    spoil(three.segments()[MIDDLE], lambda content: content[:-1])
    with pytest.raises(Damaged):
        three.open()


# --- 19 ----------------------------------------------------------------------------------------------------------------
def test_the_last_name_that_a_segment_can_have_is_refused(three: Rig) -> None:
    """Bad input 19: names have 20 digits; more than 64 bits is no offset, and one digit more or less is no segment."""
    name = "9" * 20 + ".jsonl"
    path = new_file(three.directory / name, three.segments()[LAST].read_bytes())
    assert name in refused(three)
    path.rename(path.with_name("9" * 21 + ".jsonl"))
    assert three.open().end.offset == 60


# A fault of `layout.py`: `\d` takes the digits of every script, and `int` reads them.
def test_digits_of_other_scripts_name_no_segment(three: Rig) -> None:
    """Bad input 19: dq writes ASCII names; anything else in a bucket is a file of people, and is left alone."""
    new_file(three.directory / ("\u0660" * 20 + ".jsonl"), b"")
    assert three.open().end.offset == 60


# --- the neighbours ----------------------------------------------------------------------------------------------------
def test_one_damaged_bucket_closes_its_stream_and_no_other(tmp_path: Path) -> None:
    """R4: the others take records; the one tells what is wrong with it each time it is asked for."""
    root = tmp_path / "queue_data"
    root.mkdir(0o700)
    catalog = Catalog(Files(), root)
    catalog.open()
    for name in ("good", "bad"):
        stream = catalog.create(name, StreamSettings(buckets=2, segment_bytes=4096))
        for writer in stream.writers:
            writer.append(Batch("ada", 0, 2, records(0, 2)))
            writer.commit()
    catalog.close(clean=False)
    [path] = Layout(root).bucket("bad", 1).iterdir()
    spoil(path, lambda content: content.replace(b'"n":0', b'"n":9'))
    catalog = Catalog(Files(), root)
    catalog.open()
    assert list(catalog.streams) == ["good"]
    for _ in range(2):
        with pytest.raises(Damaged, match=str(path)):
            catalog.get("bad")
    writer = catalog.streams["good"].writers[1]
    writer.append(Batch("ada", 1, 1, record(2)))
    assert writer.commit().offset == 3


def test_the_judge_agrees_with_these_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad input 9, 11: the judge of the random damages, on damages that are known."""
    rig = fresh({})
    rig.fill(rig.open(2600), 30)
    segments = [parsed(int(path.stem), rig.files.read_whole(path, 1 << 20)) for path in rig.segments()]
    window, judge = Window(segments), Judge(monkeypatch)
    files = window.files
    assert judge.verdict(window, {**files, window.last.name: window.last.content[:-3]}, small=False) == "cut"
    assert judge.verdict(window, {name: files[name] for name in sorted(files)[:2]}, small=False) == "shorter"
    assert judge.verdict(window, {name: files[name] for name in sorted(files)[::2]}, small=False) == "refused"

"""What opening a log does about each thing that can be found there. Numbers are rows of the table in `recovery`."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from log_rig import UUID, Rig, batch_bytes, read_all, record, records, sealed, three_segments
from sim_files import FaultyFiles

from dq.config import LIMITS
from dq.errors import Damaged, LogError, NewerFormat, SyncFailed
from dq.log.format import Identity, SegmentHeader, encode_segment, seal
from dq.log.storage import Batch, End

Change = Callable[[bytes], bytes]


@pytest.fixture
def three(rig: Rig) -> Rig:
    return three_segments(rig)


def spoil(path: Path, change: Change) -> None:
    path.write_bytes(change(path.read_bytes()))


def assert_untouched(rig: Rig, error: type[LogError] = Damaged, match: str | None = None) -> None:
    """Opening raises, and changes nothing."""
    before = {path: path.read_bytes() for path in rig.segments() if path.is_file()}
    with pytest.raises(error, match=match):
        rig.open()
    assert {path: path.read_bytes() for path in rig.segments() if path.is_file()} == before
    assert rig.kept_away() == []


def last_batch(content: bytes) -> int:
    return content.rfind(b'{"batch":')


# --- what is mended ----------------------------------------------------------------------------------------------------
def test_a_whole_log_is_opened_as_it_is(three: Rig) -> None:
    log = three.open()
    assert log.end.offset == 60
    assert not log.report.clean
    assert log.report.bytes_checked == sum(path.stat().st_size for path in three.segments())
    assert log.report.torn_bytes == 0
    assert three.read_all(log.end) == records(0, 60)


@pytest.mark.parametrize(
    "tail", [b"\0", b"\0" * 511, b"\0" * 5000, b'{"bat', b'{"batch":60,"count":1,"bytes":3', batch_bytes(60, record(0))[:-1]]
)
def test_a_torn_tail_is_cut_and_kept(three: Rig, tail: bytes) -> None:
    """R1, bad input 7."""
    path = three.segments()[-1]
    size = path.stat().st_size
    spoil(path, lambda content: content + tail)
    log = three.open()
    assert log.end == End(60, int(path.stem), size)
    assert log.report.torn_bytes == len(tail)
    assert three.kept_away() == [tail]
    assert log.report.quarantined is not None
    assert log.report.quarantined.name == f"emails.0.{int(path.stem)}.{size}.0.torn"
    assert log.report.quarantined.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_size == size
    three.fill(log, 1)
    assert three.read_all(log.end) == records(0, 62)
    log.close()
    again = three.open()
    assert again.report.torn_bytes == 0
    assert again.end.offset == 62


def test_two_torn_tails_at_one_place_are_both_kept(three: Rig) -> None:
    for _ in range(2):
        spoil(three.segments()[-1], lambda content: content + b"\0")
        three.open().close()
    assert three.kept_away() == [b"\0", b"\0"]


def test_a_batch_with_a_hole_is_cut_although_its_bytes_are_all_there(rig: Rig) -> None:
    log = rig.open(1 << 20)
    rig.fill(log, 3)
    end = log.end
    rig.fill(log, 1, count=2, padding=1500)
    log.close()
    hole = (end.position // 512 + 2) * 512
    spoil(rig.segments()[0], lambda content: content[:hole] + b"\0" * 512 + content[hole + 512 :])
    log = rig.open()
    assert log.end == end
    assert rig.read_all(end) == records(0, 6)


def test_a_torn_commit_of_many_batches_is_cut_at_its_first_hole(rig: Rig) -> None:
    log = rig.open(1 << 20)
    rig.fill(log, 3)
    confirmed = log.end
    rig.fill(log, 20, padding=100, commit_every=20)
    log.close()
    hole = (confirmed.position // 512 + 3) * 512
    spoil(rig.segments()[0], lambda content: content[:hole] + b"\0" * 512 + content[hole + 512 :])
    log = rig.open()
    assert confirmed.offset <= log.end.offset < 46
    assert rig.read_all(log.end) == records(0, 6) + records(6, log.end.offset - 6, 100)


def test_the_same_hole_in_what_was_confirmed_is_damage(rig: Rig) -> None:
    log = rig.open(1 << 20)
    rig.fill(log, 3)
    hole = (log.end.position // 512 + 3) * 512
    rig.fill(log, 20, padding=100)
    log.close()
    spoil(rig.segments()[0], lambda content: content[:hole] + b"\0" * 512 + content[hole + 512 :])
    assert_untouched(rig, match="was written after it was on disk")


@pytest.mark.parametrize("content", [b"", b"\0", b"\0" * 700, b'{"segm', b'{"segment":60,"format":1,"stream":"emails"'])
def test_a_segment_that_was_being_begun_is_moved_away(three: Rig, content: bytes) -> None:
    path = three.directory / f"{60:020d}.jsonl"
    path.write_bytes(content)
    os.chmod(path, 0o600)
    log = three.open()
    assert log.end.offset == 60
    assert three.kept_away() == [content]
    assert len(three.segments()) == 3
    three.fill(log, 1)
    assert three.read_all(log.end) == records(0, 62)


def test_a_segment_with_nothing_but_its_header_is_empty_and_goes_on(three: Rig) -> None:
    path = three.segments()[-1]
    end = int(path.stem)
    spoil(path, lambda content: content[: content.index(b"\n") + 1])
    log = three.open(segment_bytes=1)
    assert log.end.offset == end
    three.fill(log, 2)
    assert three.read_all(log.end) == records(0, end + 4)


def test_the_first_segment_torn_at_its_start_is_an_empty_log(rig: Rig) -> None:
    path = rig.directory / f"{0:020d}.jsonl"
    path.write_bytes(b'{"segment":0,"for')
    os.chmod(path, 0o600)
    log = rig.open()
    assert log.end == End(0, 0, 0)
    rig.fill(log, 1)
    assert rig.read_all(log.end) == records(0, 2)


def test_a_left_over_tmp_goes_to_quarantine(three: Rig) -> None:
    """R6."""
    (three.directory / "x.jsonl.tmp").write_bytes(b"half")
    os.chmod(three.directory / "x.jsonl.tmp", 0o600)
    assert three.open().end.offset == 60
    assert three.kept_away() == [b"half"]


def test_a_log_whose_beginning_was_trimmed_is_whole(three: Rig) -> None:
    three.segments()[0].unlink()
    log = three.open()
    first = log.stats().first_offset
    assert 0 < first < 60
    assert three.read_all(log.end, first) == records(first, 60 - first)


# --- what is refused -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(
    "change",
    [
        lambda _: b"", lambda c: c[:-1], lambda c: c[:40], lambda c: c + b"\0", lambda c: c + b"x",
        lambda c: b"\0" * len(c),
        lambda c: c[: last_batch(c)], lambda c: c[:600] + c[601:], lambda c: b"\xef\xbb\xbf" + c,
        lambda c: c.replace(b"\n", b"\r\n"),
    ],
)  # fmt: skip
def test_anything_wrong_before_the_last_segment_is_damage(three: Rig, which: int, change: Change) -> None:
    """R4."""
    spoil(three.segments()[which], change)
    assert_untouched(three)


def drop_middle(content: bytes) -> bytes:
    parts = content.split(b'{"batch":')
    return b'{"batch":'.join(parts[:3] + parts[4:])


def double(content: bytes) -> bytes:
    parts = content.split(b'{"batch":')
    return b'{"batch":'.join([*parts[:4], parts[3], *parts[4:]])


def swap(content: bytes) -> bytes:
    parts = content.split(b'{"batch":')
    return b'{"batch":'.join([*parts[:3], parts[4], parts[3], *parts[5:]])


@pytest.mark.parametrize(
    "change",
    [
        drop_middle, double, swap,
        lambda c: c + c[last_batch(c) :],  # doubled at the end
        lambda c: c + batch_bytes(60, records(60, 2)),  # right offset, wrong `prev`
        lambda c: c + b"garbage\n",
        lambda c: c + b"garbage",
        lambda c: c + c[: c.index(b"\n") + 1],  # a second header
        lambda c: c.replace(b"\n", b"\r\n"),
        lambda c: b"\xef\xbb\xbf" + c,
        lambda c: c.replace(b'{"batch":', b'{\n  "batch": '),
        lambda c: c[: c.rindex(b'"n":') + 4] + b"7" + c[c.rindex(b'"n":') + 5 :],  # one byte of a whole last batch
        lambda c: c[: c.index(b'"n":') + 4] + b"7" + c[c.index(b'"n":') + 5 :],
    ],
)  # fmt: skip
def test_whole_bytes_that_are_wrong_are_damage_in_the_last_segment_too(three: Rig, change: Change) -> None:
    """R3, bad input 9, 13, 14."""
    spoil(three.segments()[-1], change)
    assert_untouched(three)


def test_a_length_that_was_spoiled_does_not_cut_what_was_confirmed(three: Rig) -> None:
    spoil(three.segments()[-1], lambda content: content.replace(b'"bytes":7', b'"bytes":7777', 1))
    assert_untouched(three, match="was written after it was on disk")


def test_the_message_has_file_place_and_command(three: Rig) -> None:
    path = three.segments()[1]
    place = path.read_bytes().index(b'{"batch":')
    spoil(path, lambda content: content.replace(b'"n":', b'"m":', 1))
    assert_untouched(three, match=f"{path}, byte {place}: .*{path} --truncate-at {place}")


def test_a_missing_segment_is_named(three: Rig) -> None:
    before, gone, after = three.segments()
    gone.unlink()
    assert_untouched(three, match=f"{after.name}, byte 0: .*{before.name}")


def test_a_segment_of_another_log_is_refused(rig: Rig) -> None:
    rig.fill(rig.open(), 3)
    for change in ({"stream": "orders"}, {"bucket": 1}, {"uuid": "other"}, {"kind": "sink"}):
        ours = {"stream": "emails", "bucket": 0, "uuid": UUID, "epoch": 1}
        header = encode_segment(SegmentHeader(6, Identity(**{**ours, **change}), 1.5, rig.open()._crc, {}))  # type: ignore[arg-type]
        path = rig.directory / f"{6:020d}.jsonl"
        path.write_bytes(header)
        os.chmod(path, 0o600)
        assert_untouched(rig, match="is of")
        path.unlink()


@pytest.mark.parametrize("epoch", [2, 0])
def test_an_epoch_that_falls_or_is_of_the_future_is_refused(rig: Rig, epoch: int) -> None:
    """R8."""
    rig.fill(rig.open(), 3)
    header = encode_segment(SegmentHeader(6, Identity("emails", 0, UUID, epoch), 1.5, rig.open()._crc, {}))
    path = rig.directory / f"{6:020d}.jsonl"
    path.write_bytes(header)
    os.chmod(path, 0o600)
    assert_untouched(rig, match="epoch")


def test_a_newer_format_is_no_damage(three: Rig) -> None:
    line = three.segments()[-1].read_bytes().split(b"\n")[0]
    newer = seal(line[:-18].replace(b'"format":1', b'"format":2'))[0]
    spoil(three.segments()[-1], lambda content: newer + content.split(b"\n", 1)[1])
    assert_untouched(three, NewerFormat, match="newer dq; nothing is damaged")


def test_a_header_whose_checksum_is_right_but_which_is_no_json_is_damage(three: Rig) -> None:
    for head in (b'{"batch":60,', b"[" * 5000, b'{"batch":60}', b"null"):
        path = three.segments()[-1]
        before = path.read_bytes()
        spoil(path, lambda content, head=head: content + sealed(head, record(60)))  # type: ignore[misc]
        assert_untouched(three)
        path.write_bytes(before)


def test_a_tail_that_is_too_long_for_a_batch_is_not_cut(rig: Rig) -> None:
    """R2."""
    rig.limits = replace(LIMITS, record_bytes_max=1500, kept_bytes_max=2000, batch_bytes_max=1000, commit_bytes_max=3000)
    log = rig.open()
    rig.fill(log, 3)
    log.close()
    path, size = rig.segments()[0], log.end.position
    spoil(path, lambda content: content.ljust(size + 3000 + 2000 + 16 * 1024 + 1, b"\0"))
    assert_untouched(rig, match="more than can be unconfirmed")
    spoil(path, lambda content: content[:-1])
    assert rig.open().end.offset == 6


def test_a_line_without_end_is_refused_without_reading_all_of_it(rig: Rig) -> None:
    log = rig.open()
    rig.fill(log, 3)
    with open(rig.segments()[0], "r+b") as file:
        file.seek(log.end.position)
        file.write(b'{"batch":6,"x":"' + b"x" * 100_000)
        file.truncate(1 << 30)
    with pytest.raises(Damaged, match="without end"):
        rig.open()


@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory", "writable"])
@pytest.mark.parametrize("which", [0, 2])
def test_a_segment_that_is_no_plain_file_of_ours_is_refused(three: Rig, kind: str, which: int, tmp_path: Path) -> None:
    path = three.segments()[which]
    moved = path.rename(tmp_path / "elsewhere")
    if kind == "symlink":
        path.symlink_to(moved)
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        moved.rename(path).chmod(0o666)
    with pytest.raises(Damaged):
        three.open()


def test_offsets_beyond_what_a_double_holds_work(rig: Rig) -> None:
    first = 2**53 + 1
    header = encode_segment(SegmentHeader(first, Identity("emails", 0, UUID, 1), 1.5, 0, {}))
    path = rig.directory / f"{first:020d}.jsonl"
    path.write_bytes(header)
    os.chmod(path, 0o600)
    log = rig.open(segment_bytes=1)
    log.append(Batch("p", 0, 2, records(0, 2)))
    log.commit()
    log.append(Batch("p", 1, 1, record(2)))
    log.commit()
    log.close()
    assert rig.open().end.offset == first + 3
    assert read_all(rig.reader(log.end), first, first + 3) == records(0, 3)


# --- a disk that fails ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("nth", range(6))
def test_an_error_of_the_disk_is_not_the_end_of_a_file(three: Rig, nth: int) -> None:
    """R13."""
    files = three.files = FaultyFiles()
    files.fail_next("pread", errno.EIO, after=nth)
    assert_untouched(three, LogError, match="cannot read .*jsonl: Input/output error")
    assert three.open().end.offset == 60


@pytest.mark.parametrize("method", ["fdatasync", "sync_directory"])
def test_nothing_is_announced_before_the_last_segment_is_flushed(three: Rig, method: str) -> None:
    files = three.files = FaultyFiles()
    files.fail_next(method, errno.EIO)
    assert_untouched(three, SyncFailed)
    assert files.calls["pread"] == 0


@pytest.mark.parametrize("nth", range(3))
def test_a_tail_is_not_cut_before_its_copy_is_on_disk(three: Rig, nth: int) -> None:
    files = three.files = FaultyFiles()
    path = three.segments()[-1]
    spoil(path, lambda content: content + b"\0" * 9)
    size = path.stat().st_size
    for method in ("write_some", "fdatasync", "sync_directory", "create", "make_directory")[nth:]:
        files.fail_next(method, errno.ENOSPC, after=1 if method in ("fdatasync", "sync_directory") else 0)
        with pytest.raises(LogError):
            three.open()
        assert path.stat().st_size == size
        assert files.calls["truncate"] == 0
    assert three.open().end.offset == 60

"""Bad input 7, 18 and 19: files that are far too large or far too many. Memory is bounded, and so is the time."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from zlib import crc32

import pytest
from damage_bench import fresh
from log_rig import UUID, Rig, batch_bytes, read_all, record, records

from dq.config import MIB
from dq.errors import Damaged
from dq.log.catalog import Catalog
from dq.log.files import Files
from dq.log.format import Identity, SegmentHeader, encode_batch, encode_segment
from dq.log.layout import Layout
from dq.log.storage import End
from dq.log.stream_file import read_stream
from dq.model.settings import StreamSettings

GIB = 1 << 30
# Recovery may take 8 MiB of a torn batch, or 24 MiB of a torn first line, into its hands, and copies of that.
BYTES_MAX = 120 * MIB


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Fails when more than BYTES_MAX were taken at any time within."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < BYTES_MAX, f"{peak / MIB:.0f} MiB"


def stretch(path: Path, begin: bytes, at: int, size: int = GIB) -> None:
    """A line of `size` bytes from `at` on; it takes no room on the disk."""
    with open(path, "r+b") as file:
        file.truncate(at)
        file.seek(at)
        file.write(begin)
        file.truncate(at + size)


LINES: dict[str, bytes] = {
    "of NULs": b"",
    "of a batch header": b'{"batch":60,"x":"' + b"x" * 100_000,
    "of text": b"x" * 100_000,
    "of a record": batch_bytes(60, b"%s\n" % (b"1" * 1_000))[:-1],
}


@pytest.mark.parametrize("which", [0, -1])
@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_line_of_a_gibibyte_is_refused_in_bounded_memory(three: Rig, line: bytes, which: int) -> None:
    """Bad input 18, 7, R2: behind the batches of the last segment and of another one."""
    end = three.open().end
    path = three.segments()[which]
    stretch(path, line, path.stat().st_size)
    with bounded_memory():
        with pytest.raises(Damaged, match=str(path)):
            three.open()
        reader = three.reader(End(61, end.segment, path.stat().st_size) if which else end)
        with pytest.raises(Damaged):
            read_all(reader, 0, 61)
    assert path.stat().st_size > GIB
    assert three.kept_away() == []


@pytest.mark.parametrize("which", [0, -1])
@pytest.mark.parametrize(
    "line", [b"", b'{"segment":', b'{"segment":0,"format":1,"x":"' + b"x" * 100_000], ids=["NULs", "begun", "text"]
)
def test_a_first_line_of_a_gibibyte_is_refused_in_bounded_memory(three: Rig, line: bytes, which: int) -> None:
    """Bad input 18: in place of the segment header."""
    path = three.segments()[which]
    stretch(path, line, 0)
    with bounded_memory(), pytest.raises(Damaged, match=str(path)):
        three.open()


def test_a_batch_that_claims_a_gibibyte_and_has_it_is_refused_in_bounded_memory(three: Rig) -> None:
    """Bad input 18: nothing is read because a header says how much there is."""
    path = three.segments()[-1]
    whole = batch_bytes(60, records(60, 1))
    stretch(path, whole.replace(b'"bytes":39', b'"bytes":%d' % (GIB - 1000), 1), path.stat().st_size)
    with bounded_memory(), pytest.raises(Damaged):
        three.open()


def read_mark(files: Files, root: Path) -> None:
    files.read_whole(Layout(root).clean_mark, GIB)


@pytest.mark.parametrize(
    "read", [read_mark, lambda files, root: read_stream(files, root, "emails")], ids=["clean.json", "stream.json"]
)
def test_a_small_file_of_gibibytes_is_refused_in_bounded_memory(tmp_path: Path, read: Callable) -> None:
    """Bad input 18: the files beside the logs."""
    root = tmp_path / "queue_data"
    root.mkdir(0o700)
    catalog = Catalog(Files(), root)
    catalog.open()
    catalog.create("emails", StreamSettings())
    catalog.close(clean=True)
    for path in (Layout(root).clean_mark, Layout(root).stream_file("emails")):
        stretch(path, b'{"format":1,"x":"', 0, 2 * GIB)
    with bounded_memory(), pytest.raises(Damaged, match=r"2,147,483,648 bytes"):
        read(Files(), root)


# A fault of `bucket_log.py`: `recover` lets the tail of such a stream be of any length, and all of it is read at once. What its
# last segment can lose is no more than `segment_bytes` and a commit.
@pytest.mark.parametrize("durability", ["interval", "os"])
def test_a_tail_that_no_segment_can_have_is_refused_whatever_the_durability(three: Rig, durability: str) -> None:
    """Bad input 7, 18, R2: all of the last segment may be lost, but nothing is lost that never fitted into it."""
    path = three.segments()[-1]
    end = path.stat().st_size
    stretch(path, b"", end, 200 * MIB)
    with bounded_memory(), pytest.raises(Damaged, match="more than can be unconfirmed"):
        three.open(durability=durability)
    assert path.stat().st_size == end + 200 * MIB
    assert three.kept_away() == []


# --- many ----------------------------------------------------------------------------------------------------------------
def many_segments(count: int) -> tuple[dict[str, bytes], End]:
    """A log of `count` segments of one record each."""
    files, prev, identity = {}, 0, Identity("emails", 0, UUID, 1)
    for first in range(count):
        lines = record(first)
        head = encode_segment(SegmentHeader(first, identity, 1.5, prev, {}))
        header, prev = encode_batch(first, 1, len(lines), 1.5, "p", first, b"", prev, crc32(lines))
        files[f"{first:020d}.jsonl"] = head + header + lines
    return files, End(count, count - 1, len(head) + len(header) + len(lines))


def test_a_hundred_thousand_segments_are_opened_in_seconds() -> None:
    """Bad input 19: opened unclean and clean, read at both ends and in the middle, trimmed. Measured: 2 s and 0.5 s."""
    files, end = many_segments(100_000)
    rig = fresh(files)
    began = time.perf_counter()
    log = rig.open()
    unclean = time.perf_counter() - began
    assert (log.end, log.stats().segments) == (end, 100_000)
    mark = log.clean_mark()
    log.close()
    began = time.perf_counter()
    log = rig.open(clean=mark)
    clean = time.perf_counter() - began
    assert log.report.clean
    reader = rig.reader(log.end)
    for first in (0, 49_990, 99_990):
        assert b"".join(reader.read(first, 10, 1 << 20).parts) == records(first, 10)
    # A log whose opening grew with the square of its segments would take hours.
    assert unclean < 60
    assert clean < 30

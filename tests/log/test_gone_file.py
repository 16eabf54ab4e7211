"""What is gone of a stream: the value against a plain set, the file through every bad input, a disk that fails."""

from __future__ import annotations

import errno
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sim_files import FaultyFiles

from dq.errors import Damaged, DiskFull, LogError, NewerFormat, SyncFailed
from dq.log.catalog import Catalog
from dq.log.files import Files
from dq.log.format import seal
from dq.log.gone_file import Gone, open_gone, read_gone, write_gone
from dq.log.layout import Layout
from dq.log.storage import Batch
from dq.log.stream_file import StreamDescription
from dq.model.settings import StreamSettings

DESCRIBED = StreamDescription("orders", "uuid-1", 1, StreamSettings(buckets=2))
GONE = Gone((512, 0), (((600, 602),), ((7, 8),)), 512, 3)
OFFSETS = st.integers(0, 30)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = Layout(tmp_path).stream("orders")
    directory.mkdir(parents=True, mode=0o700)
    return tmp_path


# --- the value -----------------------------------------------------------------------------------------------------------
@given(st.lists(st.tuples(st.sampled_from(["remove", "firsts", "ends"]), st.sets(OFFSETS, max_size=8), OFFSETS), max_size=12))
def test_the_ranges_are_what_a_set_of_offsets_would_be(steps):
    gone, model, taken = Gone.nothing(1), set(), 0
    for what, offsets, at in steps:
        if what == "remove":
            gone, taken = gone.with_removed([offsets]), taken + len(offsets - model)
            model |= offsets
        elif what == "firsts":
            gone = gone.from_firsts([at])
            model = {offset for offset in model if offset >= at}
        else:
            gone = gone.up_to([at])
            model = {offset for offset in model if offset < at}
        [ranges] = gone.removed
        assert {offset for first, stop in ranges for offset in range(first, stop)} == model
        assert all(before[1] < after[0] for before, after in pairwise(ranges))
        assert [offset for offset in range(35) if gone.has(0, offset)] == sorted(model)
        assert gone.count(0, at) == sum(offset >= at for offset in model)
    assert gone.taken == taken


def test_a_mark_never_goes_back():
    gone = Gone.nothing(2).with_trim([5, 0], 5).with_trim([3, 4], 4)
    assert (gone.marks, gone.trimmed) == ((5, 4), 9)


# --- the file ------------------------------------------------------------------------------------------------------------
def test_what_is_written_is_read(root):
    assert read_gone(Files(), root, DESCRIBED) == Gone.nothing(2)
    write_gone(Files(), root, DESCRIBED, GONE)
    assert read_gone(Files(), root, DESCRIBED) == GONE


def sealed(**changed: object) -> bytes:
    fields = {"format": 1, "name": "orders", "uuid": "uuid-1", "marks": [512, 0], "removed": GONE.listed(), "trimmed": 512}
    return seal(orjson.dumps({**fields, "taken": 3, **changed})[:-1])[0]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", Damaged),
        (b"\0" * 300, Damaged),
        (b"[]\n", Damaged),
        (sealed()[:-9], Damaged),
        (sealed().replace(b"512", b"513", 1), Damaged),
        ({"format": 2}, NewerFormat),
        ({"format": "1"}, Damaged),
        ({"name": "another"}, Damaged),
        ({"uuid": "uuid-2"}, Damaged),
        ({"marks": [1]}, Damaged),
        ({"marks": [1, -1]}, Damaged),
        ({"marks": [1, 2.0]}, Damaged),
        ({"marks": [1, 1 << 63]}, Damaged),
        ({"removed": {}}, Damaged),
        ({"removed": [[0, 1]]}, Damaged),
        ({"removed": [[2, 1, 2]]}, Damaged),
        ({"removed": [[-1, 1, 2]]}, Damaged),
        ({"removed": [[0, 2, 2]]}, Damaged),
        ({"removed": [[0, 3, 2]]}, Damaged),
        ({"removed": [[0, 1, "2"]]}, Damaged),
        ({"removed": [[0, 1, True]]}, Damaged),
        ({"removed": [[0, 1, 3], [0, 2, 5]]}, Damaged),
        ({"removed": [[0, 5, 6], [0, 1, 2]]}, Damaged),
        ({"removed": [7]}, Damaged),
        ({"trimmed": -1}, Damaged),
        ({"taken": None}, Damaged),
        (b"x" * (9 << 20), Damaged),
    ],
)
def test_a_bad_file_closes_that_stream_alone_and_is_named(tmp_path, content, kind):
    # Given two streams, of one of which something is gone
    root = tmp_path / "queue_data"
    root.mkdir(mode=0o700)
    catalog = Catalog(Files(), root)
    catalog.open()
    uuid = catalog.create("orders", StreamSettings(buckets=2)).uuid
    catalog.create("audit", StreamSettings(buckets=2))
    catalog.close(clean=True)
    # When its file is spoiled
    path = Layout(root).gone_file("orders")
    path.write_bytes(content if isinstance(content, bytes) else sealed(**{"uuid": uuid, **content}))
    path.chmod(0o600)
    again = Catalog(Files(), root)
    again.open()
    # Then it is closed, with the file's name and what to do
    assert list(again.streams) == ["audit"]
    error = again.errors["orders"]
    assert isinstance(error, kind)
    assert str(path) in str(error)
    assert isinstance(content, bytes) or "checksum" not in str(error)
    # And it is open again once that was done
    path.unlink()
    assert again.reopen("orders") is not None
    again.close(clean=True)


def test_a_link_in_its_place_is_not_followed(root):
    (root / "elsewhere").write_bytes(sealed())
    Layout(root).gone_file("orders").symlink_to(root / "elsewhere")
    with pytest.raises(Damaged, match="not a plain file"):
        read_gone(Files(), root, DESCRIBED)


def test_a_stream_that_lost_its_end_gets_back_the_places_that_were_gone(root):
    """What comes to stand at an offset that was removed before is another record."""
    write_gone(Files(), root, DESCRIBED, GONE)
    opened = open_gone(Files(), root, DESCRIBED, [601, 0])
    assert opened == replace(GONE, removed=(((600, 601),), ()))
    assert read_gone(Files(), root, DESCRIBED) == opened
    assert open_gone(Files(), root, DESCRIBED, [0, 0]).marks == (0, 0)


@pytest.mark.parametrize("call", ["create", "write_some", "fdatasync", "rename", "sync_directory"])
@pytest.mark.parametrize(("number", "kind"), [(errno.ENOSPC, DiskFull), (errno.EIO, SyncFailed)])
def test_a_disk_that_fails_leaves_the_old_file_or_the_new_one(root, call, number, kind):
    files = FaultyFiles()
    write_gone(files, root, DESCRIBED, Gone.nothing(2))
    files.fail_next(call, number)
    with pytest.raises(SyncFailed if call == "sync_directory" else kind):
        write_gone(files, root, DESCRIBED, GONE)
    kept = read_gone(Files(), root, DESCRIBED)
    assert kept == (GONE if call == "sync_directory" else Gone.nothing(2))
    assert [path.name for path in Layout(root).stream("orders").iterdir()] == ["gone.json"]


def test_a_full_disk_changes_nothing_in_the_catalog(tmp_path):
    root = tmp_path / "queue_data"
    root.mkdir(mode=0o700)
    files = FaultyFiles()
    catalog = Catalog(files, root)
    catalog.open()
    stream = catalog.create("orders", StreamSettings())
    stream.writers[0].append(Batch("ada", 0, 2, b'{"n":1}\n{"n":2}\n'))
    stream.writers[0].commit()
    files.fail_next("write_some", errno.ENOSPC)
    with pytest.raises(DiskFull, match="nothing was trimmed or removed"):
        catalog.keep_gone(stream, stream.gone.with_trim([1], 1))
    assert (stream.marks, stream.gone) == ([0], Gone.nothing(1))
    catalog.close(clean=True)


def test_a_stream_that_cannot_be_deleted_is_closed_and_can_be_asked_for_again(tmp_path):
    root = tmp_path / "queue_data"
    root.mkdir(mode=0o700)
    files = FaultyFiles()
    catalog = Catalog(files, root)
    catalog.open()
    catalog.create("orders", StreamSettings())
    files.fail_next("rename", errno.EIO)
    with pytest.raises(LogError):
        catalog.destroy("orders")
    assert list(catalog.errors) == ["orders"]
    catalog.destroy("orders")
    assert (catalog.streams, catalog.errors) == ({}, {})
    assert not Layout(root).stream("orders").exists()

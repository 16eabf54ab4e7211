"""The streams of a directory: made whole or not at all, opened clean or checked, one's damage not another's."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

import orjson
import pytest
from log_rig import records
from sim_files import FaultyFiles

from dq.errors import Damaged, DiskFull, InvalidName, InvalidSetting, LogError, NewerFormat, SyncFailed
from dq.log.catalog import Catalog, OpenStream
from dq.log.files import Files
from dq.log.format import seal
from dq.log.layout import Layout
from dq.log.storage import Batch
from dq.log.stream_file import read_stream
from dq.model.settings import StreamSettings

ONE = StreamSettings(segment_bytes=4096)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "queue_data"
    root.mkdir(mode=0o700)
    return root


def opened(root: Path, files: Files | None = None) -> Catalog:
    catalog = Catalog(files or Files(), root)
    catalog.open()
    return catalog


def publish(stream: OpenStream, batches: int, bucket: int = 0) -> None:
    writer = stream.writers[bucket]
    for _ in range(batches):
        first = writer.end.offset
        writer.append(Batch("ada", first // 2, 2, records(first, 2)))
        writer.commit()


def spoil(root: Path, stream: str, bucket: int = 0) -> None:
    path = sorted(Layout(root).bucket(stream, bucket).iterdir())[0]
    path.write_bytes(path.read_bytes().replace(b'"n":0', b'"n":9'))


# --- making --------------------------------------------------------------------------------------------------------------
def test_a_new_stream_has_its_buckets_and_its_file(root: Path) -> None:
    catalog = opened(root)
    assert catalog.get("emails") is None
    stream = catalog.create("emails", StreamSettings(buckets=3))
    assert catalog.get("emails") is stream
    assert len(stream.writers) == 3
    layout = Layout(root)
    assert orjson.loads(layout.stream_file("emails").read_bytes())["format"] == 1
    described = read_stream(Files(), root, "emails")
    assert (described.uuid, described.epoch, described.settings) == (stream.uuid, 1, StreamSettings(buckets=3))
    for path in (layout.streams, layout.quarantine, layout.stream("emails"), layout.bucket("emails", 2)):
        assert path.stat().st_mode & 0o777 == 0o700
    assert layout.stream_file("emails").stat().st_mode & 0o777 == 0o600


def test_an_unknown_stream_has_no_description(root: Path) -> None:
    opened(root)
    with pytest.raises(FileNotFoundError):
        read_stream(Files(), root, "nothing")


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "writer.lock", "clean.json", "é", "a" * 129])
def test_a_name_that_is_no_safe_file_name_is_refused(root: Path, name: str) -> None:
    with pytest.raises(InvalidName):
        opened(root).create(name, ONE)
    assert os.listdir(root / "streams") == []


def test_an_unknown_backend_is_refused_before_anything_is_made(root: Path) -> None:
    with pytest.raises(InvalidSetting):
        opened(root).create("emails", StreamSettings(backend="punchcards"))
    assert os.listdir(root / "streams") == []


@pytest.mark.parametrize("method", ["make_directory", "create", "write_some", "fdatasync", "sync_directory", "rename"])
@pytest.mark.parametrize("nth", range(3))
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_stream_is_made_whole_or_not_at_all(root: Path, method: str, nth: int, code: int) -> None:
    files = FaultyFiles()
    catalog = opened(root, files)
    files.fail_next(method, code, after=nth)
    with contextlib.suppress(SyncFailed, DiskFull if code == errno.ENOSPC else LogError):
        catalog.create("emails", StreamSettings(buckets=2))
    again = opened(root)
    assert again.errors == {}
    assert set(again.streams) <= {"emails"}
    if "emails" in again.streams:
        publish(again.streams["emails"], 2, bucket=1)
    else:
        assert os.listdir(root / "streams") == []
        publish(again.create("emails", StreamSettings(buckets=2)), 2, bucket=1)


def test_what_a_dead_maker_left_goes_to_quarantine(root: Path) -> None:
    opened(root)
    (root / "streams" / ".emails.making" / "0").mkdir(parents=True)
    catalog = opened(root)
    assert catalog.streams == {}
    assert os.listdir(root / "quarantine") == [".emails.making.0.torn"]
    assert catalog.create("emails", ONE).writers[0].end.offset == 0


def test_a_stream_that_is_destroyed_is_gone(root: Path) -> None:
    catalog = opened(root)
    first = catalog.create("emails", ONE)
    publish(first, 3)
    catalog.destroy("emails")
    catalog.destroy("emails")
    assert catalog.get("emails") is None
    assert os.listdir(root / "streams") == []
    second = catalog.create("emails", ONE)
    assert second.uuid != first.uuid
    assert second.writers[0].end.offset == 0


def test_a_destruction_that_was_cut_off_is_finished(root: Path) -> None:
    catalog = opened(root)
    publish(catalog.create("emails", ONE), 3)
    (root / "streams" / "emails").rename(root / "streams" / ".emails.gone")
    assert opened(root).streams == {}
    assert os.listdir(root / "streams") == []


# --- opening -------------------------------------------------------------------------------------------------------------
def test_after_a_clean_stop_nothing_is_read_and_the_epoch_stays(root: Path) -> None:
    catalog = opened(root)
    publish(catalog.create("emails", ONE), 50)
    catalog.create("empty", StreamSettings(buckets=2))
    catalog.close(clean=True)
    again = opened(root)
    assert {name: stream.epoch for name, stream in again.streams.items()} == {"emails": 1, "empty": 1}
    assert all(writer.report.clean for stream in again.streams.values() for writer in stream.writers)
    assert not Layout(root).clean_mark.exists()
    publish(again.streams["emails"], 1)
    assert again.streams["emails"].writers[0].end.offset == 102


def test_the_mark_is_gone_before_anything_is_written(root: Path) -> None:
    catalog = opened(root)
    publish(catalog.create("emails", ONE), 5)
    catalog.close(clean=True)
    publish(opened(root).streams["emails"], 1)
    third = opened(root)  # without a stop in between
    assert third.streams["emails"].epoch == 2
    assert third.streams["emails"].writers[0].end.offset == 12
    assert not third.streams["emails"].writers[0].report.clean


def test_an_unclean_start_raises_the_epoch_on_disk(root: Path) -> None:
    catalog = opened(root)
    uuid = catalog.create("emails", ONE).uuid
    catalog.close(clean=False)
    for epoch in (2, 3):
        stream = opened(root).streams["emails"]
        assert (stream.epoch, stream.uuid) == (epoch, uuid)
        assert read_stream(Files(), root, "emails").epoch == epoch
    publish(stream, 100)
    assert opened(root).streams["emails"].writers[0].end.offset == 200


@pytest.mark.parametrize(
    "change",
    [lambda _: b"", lambda c: c[:-1], lambda c: c.replace(b"offset", b"OFFSET"), lambda c: b"\0" * len(c), lambda _: b"{}\n"],
)  # fmt: skip
def test_a_spoiled_mark_costs_a_check_and_nothing_else(root: Path, change: object) -> None:
    """R11."""
    catalog = opened(root)
    publish(catalog.create("emails", ONE), 5)
    catalog.close(clean=True)
    path = Layout(root).clean_mark
    path.write_bytes(change(path.read_bytes()))  # type: ignore[operator]
    again = opened(root)
    assert again.streams["emails"].writers[0].end.offset == 10
    assert again.streams["emails"].epoch == 2
    assert not path.exists()


def test_a_mark_that_does_not_fit_the_files_raises_the_epoch(root: Path) -> None:
    catalog = opened(root)
    publish(catalog.create("emails", ONE), 5)
    catalog.close(clean=True)
    [path] = Layout(root).bucket("emails", 0).iterdir()
    with open(path, "ab") as file:
        file.write(b"\0\0\0")
    stream = opened(root).streams["emails"]
    assert stream.epoch == 2
    assert stream.writers[0].report.torn_bytes == 3


def test_a_mark_does_not_vouch_for_a_stream_that_was_closed(root: Path) -> None:
    catalog = opened(root)
    for name in ("good", "bad"):
        publish(catalog.create(name, ONE), 5)
    catalog.close(clean=False)
    spoil(root, "bad")
    catalog = opened(root)
    catalog.close(clean=True)
    again = opened(root)
    assert list(again.streams) == ["good"]
    assert again.streams["good"].writers[0].report.clean
    assert isinstance(again.errors["bad"], Damaged)


def test_a_damaged_stream_is_closed_and_the_others_serve(root: Path) -> None:
    """R4."""
    catalog = opened(root)
    for name in ("good", "bad"):
        publish(catalog.create(name, StreamSettings(buckets=2)), 5)
    catalog.close(clean=False)
    spoil(root, "bad")
    catalog = opened(root)
    with pytest.raises(Damaged, match="--truncate-at"):
        catalog.get("bad")
    publish(catalog.streams["good"], 1)
    assert catalog.reopen("bad") is None
    path = sorted(Layout(root).bucket("bad", 0).iterdir())[0]
    path.write_bytes(path.read_bytes().replace(b'"n":9,', b'"n":0,', 1))
    stream = catalog.reopen("bad")
    assert stream is not None
    assert catalog.errors == {}
    publish(stream, 1)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda c: c[:-5], Damaged), (lambda c: b"", Damaged), (lambda c: c.replace(b'"epoch":1', b'"epoch":2'),
        Damaged),
        (lambda c: b"null\n", Damaged), (lambda c: c.replace(b'"format":1', b'"format":2'), NewerFormat),
        (lambda c: seal(c[:-19].replace(b'"buckets":1', b'"buckets":1,"lanes":2'))[0], NewerFormat),
        (lambda c: seal(c[:-19].replace(b"emails", b"orders"))[0], Damaged),
        (lambda c: seal(c[:-19].replace(b'"epoch":1', b'"epoch":"1"'))[0], Damaged),
        (lambda c: seal(c[:-19].replace(b'"json"', b'"punchcards"'))[0], LogError),
    ],
)  # fmt: skip
def test_a_spoiled_stream_file_closes_that_stream(root: Path, change: object, error: type[LogError]) -> None:
    catalog = opened(root)
    catalog.create("emails", ONE)
    catalog.create("orders", ONE)
    catalog.close(clean=True)
    path = Layout(root).stream_file("emails")
    path.write_bytes(change(path.read_bytes()))  # type: ignore[operator]
    catalog = opened(root)
    assert type(catalog.errors["emails"]) is error
    assert str(path.parent) in str(catalog.errors["emails"]) or "punchcards" in str(catalog.errors["emails"])
    assert list(catalog.streams) == ["orders"]


@pytest.mark.parametrize("what", ["streams/emails", "streams/emails/0", "streams/emails/stream.json"])
@pytest.mark.parametrize("kind", ["symlink", "missing"])
def test_links_and_gaps_below_the_root_are_refused(root: Path, tmp_path: Path, what: str, kind: str) -> None:
    catalog = opened(root)
    catalog.create("emails", ONE)
    catalog.create("orders", ONE)
    catalog.close(clean=True)
    moved = (root / what).rename(tmp_path / "elsewhere")
    if kind == "symlink":
        (root / what).symlink_to(moved)
    catalog = opened(root)
    assert list(catalog.streams) == ["orders"]
    assert ("emails" in catalog.errors) is not (kind == "missing" and what == "streams/emails")
    assert all(isinstance(error, LogError) for error in catalog.errors.values())


def test_files_of_people_beside_the_streams_do_no_harm(root: Path) -> None:
    opened(root)
    (root / "streams" / "writer.lock").touch()
    (root / "streams" / "writer.lock.pid").touch()
    (root / "streams" / ".DS_Store").touch()
    assert opened(root).errors == {}


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o722])
def test_a_directory_that_others_can_write_to_is_refused(root: Path, mode: int) -> None:
    root.chmod(mode)
    with pytest.raises(LogError, match=f"chmod 700 {root}"):
        opened(root)
    root.chmod(0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(root: Path) -> None:
    os.chown(root, 65534, 65534)
    with pytest.raises(LogError, match="belongs to uid 65534"):
        opened(root)


def test_a_mark_that_cannot_be_removed_stops_the_start(root: Path) -> None:
    catalog = opened(root)
    publish(catalog.create("emails", ONE), 5)
    catalog.close(clean=True)
    files = FaultyFiles()
    files.fail_next("unlink", errno.EIO)
    with pytest.raises(LogError, match=r"clean\.json"):
        opened(root, files)

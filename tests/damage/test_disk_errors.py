"""Recovery rules R12 and R13: a directory that may not be used, a disk that cannot be read. Nothing is ever cut for that."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from log_rig import Rig, read_all, records
from sim_files import FaultyFiles

from dq.errors import Damaged, DqError, LogError
from dq.log.catalog import Catalog
from dq.log.files import Files
from dq.log.reader import BucketReader
from dq.log.sink_log import SinkLog
from dq.log.storage import Batch
from dq.model.settings import StreamSettings


def content_of(root: Path) -> dict[str, bytes]:
    """All files below `root`, but the mark of a clean stop, which every start takes away."""
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file() and path.name != "clean.json"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two streams, one of two buckets, and a sink; each log has a torn tail."""
    root = tmp_path / "queue_data"
    root.mkdir(0o700)
    catalog = Catalog(Files(), root)
    catalog.open()
    for name, buckets in (("emails", 2), ("orders", 1)):
        for writer in catalog.create(name, StreamSettings(buckets=buckets, segment_bytes=4096)).writers:
            for number in range(45):
                writer.append(Batch("ada", number, 2, records(2 * number, 2)))
                writer.commit()
    catalog.close(clean=False)
    (root / "sinks").mkdir(0o700)
    log, _ = SinkLog.open(Files(), root / "sinks" / "mailers", "mailers")
    log.append([b'{"n":1}\n', b'{"n":2}\n'])
    log.write()
    log.close()
    for path in root.rglob("*.jsonl"):
        if path == max(path.parent.glob("*.jsonl")):
            with open(path, "ab") as file:
                file.write(b'{"batch":')
    return root


def open_all(files: Files, root: Path) -> dict[str, LogError]:
    """What the brokers open at start; the errors of streams that are closed."""
    catalog = Catalog(files, root)
    catalog.open()
    errors = dict(catalog.errors)
    catalog.close(clean=False)
    log, _ = SinkLog.open(files, root / "sinks" / "mailers", "mailers")
    log.close()
    return errors


READS = ["pread", "open", "size", "state", "list_directory"]


# A fault of `files.py`: in `read_whole` the size of the file is asked for outside of `mapped`, and the OSError comes out.
@pytest.mark.parametrize("method", READS)
@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ESTALE], ids=errno.errorcode.get)
def test_an_error_at_any_read_of_an_opening_cuts_nothing(root: Path, method: str, code: int) -> None:
    """R13: at each of them in turn it is an error that names the path, never the end of a file; once it has passed, all is
    there."""
    trial = FaultyFiles()
    before = content_of(root)
    nth = failed = 0
    while True:
        nth += 1
        files = FaultyFiles()
        files.fail_next(method, code, after=nth - 1)
        try:
            errors = open_all(files, root)
        except DqError as error:
            errors = {"the directory": error}
        if files.calls[method] < nth:
            break
        failed += bool(errors)
        for error in errors.values():
            assert isinstance(error, LogError), repr(error)
            assert not isinstance(error, Damaged) or code == errno.ESTALE, repr(error)
            assert str(root) in str(error)
        untouched_or_mended(root, before)
        assert nth < 1_000
    # Without a look at the reserve of the sinks, all goes on.
    assert failed == nth - 1 - (method == "state")
    assert open_all(trial, root) == {}


def untouched_or_mended(root: Path, before: dict[str, bytes]) -> None:
    """Every file is as it was, or has lost its torn tail and nothing else, which is kept; then all is put back."""
    for name, content in before.items():
        now = Path(name).read_bytes()
        if name.endswith(".jsonl"):
            assert now == content or now == content.removesuffix(b'{"batch":'), name
        Path(name).write_bytes(content)
    for kept in (root / "quarantine").glob("*"):
        assert kept.read_bytes() == b'{"batch":'
        kept.unlink()


def test_an_error_of_the_disk_while_reading_is_not_the_end_for_a_reader(rig: Rig) -> None:
    """R13: it is told, and the same reader goes on once it has passed; nothing is skipped."""
    log = rig.open(2600)
    rig.fill(log, 60)
    for method in ("pread", "open"):
        for nth in range(12):
            files = FaultyFiles()
            reader = BucketReader(files, rig.directory)
            reader.advance(log.end)
            files.fail_next(method, errno.EIO, after=nth)
            found, first, errors = b"", 0, 0
            while first < 120:
                try:
                    taken = reader.read(first, 7, 300)
                except LogError as error:
                    errors += 1
                    assert not isinstance(error, Damaged), error  # noqa: PT017
                    continue
                found += b"".join(taken.parts)
                first += taken.count
            assert found == records(0, 120)
            assert errors <= 1
            reader.close()


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS], ids=errno.errorcode.get)
@pytest.mark.parametrize("method", ["make_directory", "create", "unlink", "rename", "truncate", "fdatasync"])
def test_a_directory_that_cannot_be_written_is_refused_by_name(root: Path, method: str, code: int) -> None:
    """R12: whichever call is the first to find out; what lies there can be read as before."""
    before = content_of(root)
    files = FaultyFiles()
    for nth in range(40):
        files.fail_next(method, code, after=nth)
    errors: dict[str, DqError] = {}
    try:
        errors.update(open_all(files, root))
    except DqError as error:
        errors["the directory"] = error
    if files.calls[method]:
        assert errors
        assert all(str(root) in str(error) for error in errors.values()), errors
    untouched_or_mended(root, before)
    assert open_all(Files(), root) == {}


@pytest.mark.parametrize("mode", [0o722, 0o707, 0o777])
@pytest.mark.parametrize("place", [".", "streams", "streams/emails", "streams/emails/1", "quarantine"])
def test_a_directory_that_others_can_write_is_refused_with_what_to_do(root: Path, place: str, mode: int) -> None:
    """R12: the data directory and each one below it."""
    path = root / place
    path.chmod(mode)
    catalog = Catalog(Files(), root)
    try:
        catalog.open()
        error: LogError | None = catalog.errors.get("emails")
    except LogError as refusal:
        error = refusal
    assert f"chmod 700 {path}" in str(error)
    path.chmod(0o700)
    assert open_all(Files(), root) == {}


@pytest.mark.root
@pytest.mark.parametrize("place", [".", "streams", "streams/emails/0"])
def test_a_directory_of_another_user_is_refused_by_name(root: Path, place: str) -> None:
    """R12: the data directory and each one below it."""
    path = root / place
    try:
        os.chown(path, 65534, 65534)
    except PermissionError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"only root can give a directory away: {error}")
    catalog = Catalog(Files(), root)
    try:
        catalog.open()
        error: LogError | None = catalog.errors.get("emails")
    except LogError as refusal:
        error = refusal
    assert f"{path} belongs to uid 65534" in str(error)


def test_a_log_that_was_mended_reads_as_it_was_written(root: Path) -> None:
    """R1, R10: with no error all torn tails are cut, and the records are all there."""
    assert open_all(Files(), root) == {}
    catalog = Catalog(Files(), root)
    catalog.open()
    for name, stream in catalog.streams.items():
        for bucket, writer in enumerate(stream.writers):
            reader = BucketReader(Files(), root / "streams" / name / str(bucket))
            reader.advance(writer.end)
            assert read_all(reader, 0, 90) == records(0, 90)
    assert sorted(path.read_bytes() for path in (root / "quarantine").iterdir()) == [b'{"batch":'] * 4

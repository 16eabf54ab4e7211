"""Bad input 21 to 23, R12: what is no plain file of ours, and files that change while they are read."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from log_rig import Rig, batch_bytes, record, records
from spoiling import FIRST, LAST, MIDDLE, begins, new_file, spoil

from dq.errors import Damaged, LogError, RecordsTrimmed
from dq.log.reader import BucketReader
from dq.log.storage import End
from stage import Threaded


# --- 21, 22 ------------------------------------------------------------------------------------------------------------
def put_symlink(path: Path, real: Path) -> None:
    path.symlink_to(real)


def put_dangling(path: Path, _: Path) -> None:
    path.symlink_to("nowhere")


def put_fifo(path: Path, _: Path) -> None:
    os.mkfifo(path, 0o600)


def put_directory(path: Path, _: Path) -> None:
    path.mkdir(0o700)


def put_socket(path: Path, _: Path) -> None:
    here = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{here}/{path.name}")  # a socket's path may have no more than 107 bytes
    os.close(here)


def put_device(path: Path, _: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))  # /dev/zero: a reader would never come to its end
    except PermissionError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"devices are made by root alone: {error}")


STRANGERS = [put_symlink, put_dangling, put_fifo, put_directory, put_socket, pytest.param(put_device, marks=pytest.mark.root)]


@pytest.fixture
def put_back(three: Rig) -> Iterator[None]:
    """Nothing that is no file is left for whoever clears the temporary directory."""
    yield
    for path in three.directory.iterdir():
        if not stat.S_ISREG(os.lstat(path).st_mode) and not path.is_dir():
            path.unlink()


@pytest.mark.usefixtures("put_back")
@pytest.mark.parametrize("which", [FIRST, MIDDLE, LAST])
@pytest.mark.parametrize("put", STRANGERS)
def test_what_is_no_plain_file_is_refused_at_once(three: Rig, put: Callable, which: int, tmp_path: Path) -> None:
    """Bad input 21: by recovery and by a reader; it hangs at none."""
    end = three.open().end
    path = three.segments()[which]
    real = path.rename(tmp_path / "real")
    content = real.read_bytes()
    put(path, real)
    with pytest.raises(Damaged, match="not a plain file"):
        Threaded(three.open).result(5)
    reader = three.reader(end)
    with pytest.raises(Damaged, match="not a plain file"):
        Threaded(lambda: reader.read(int(path.stem), 1, 100)).result(5)
    assert real.read_bytes() == content
    assert three.kept_away() == []


@pytest.mark.parametrize("mode", [0o666, 0o620, 0o602])
@pytest.mark.parametrize("which", [FIRST, LAST])
def test_a_segment_that_others_can_write_is_refused(three: Rig, which: int, mode: int) -> None:
    """Bad input 22, R12: with what to do about it."""
    path = three.segments()[which]
    path.chmod(mode)
    with pytest.raises(Damaged, match="chmod 600"):
        three.open()
    path.chmod(0o600)
    assert three.open().end.offset == 60


# A fault of `files.py`: `_check_plain` asks for the mode and not for the owner, who can write whatever the mode is.
@pytest.mark.root
@pytest.mark.parametrize("which", [FIRST, LAST])
def test_a_segment_of_another_user_is_refused(three: Rig, which: int) -> None:
    """Bad input 22, R12: as a directory of another user is."""
    path = three.segments()[which]
    try:
        os.chown(path, 65534, 65534)
    except PermissionError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"only root can give a file away: {error}")
    with pytest.raises(LogError, match="65534"):
        three.open()


# --- 23 ----------------------------------------------------------------------------------------------------------------
def reading(rig: Rig, taken: int = 2) -> BucketReader:
    """A reader that has read something and has a file open."""
    reader = rig.reader(rig.open().end)
    assert reader.read(0, taken, 1 << 20).count == taken
    return reader


def rest(reader: BucketReader, first: int, end: int) -> bytes:
    """What it serves from `first` on until it refuses."""
    found = b""
    while first < end:
        try:
            taken = reader.read(first, 3, 1 << 20)
        except (LogError, RecordsTrimmed):
            break
        found += b"".join(taken.parts)
        first += taken.count
    return found


def test_a_file_that_grows_while_it_is_read_is_read_up_to_the_committed_end(three: Rig) -> None:
    """Bad input 23: what somebody appended is never looked at, in the last segment; in one before, it is damage."""
    reader = reading(three)
    spoil(three.segments()[LAST], lambda content: content + batch_bytes(60, record(60)) + b"garbage")
    assert rest(reader, 2, 60) == records(2, 58)
    reader = three.reader(End(60, int(three.segments()[LAST].stem), begins_end(three)))
    spoil(three.segments()[FIRST], lambda content: content + b"garbage")
    found = rest(reader, 0, 60)
    assert records(0, 60).startswith(found)
    assert len(found) < len(records(0, 60))


def begins_end(rig: Rig) -> int:
    """Where the last whole batch of the last segment ends."""
    content = rig.segments()[LAST].read_bytes()
    return content.index(b'{"batch":60,')


@pytest.mark.parametrize("which", [FIRST, MIDDLE, LAST])
@pytest.mark.parametrize("cached", [False, True], ids=["closed meanwhile", "open"])
def test_a_file_that_shrinks_or_is_replaced_while_it_is_read_serves_nothing_wrong(three: Rig, which: int, cached: bool) -> None:
    """Bad input 23: cut at a batch or within one, emptied, replaced by another segment or by an older copy, deleted."""
    path = three.segments()[which]
    other = three.segments()[which - 1].read_bytes()
    content, places = path.read_bytes(), begins(path)
    for change in (
        content[: places[-2]],
        content[: places[-2] + 30],
        content[: places[0]],
        b"",
        other,
        content[:-1] + b"\0",
        None,
    ):
        reader = reading(three)
        for kept in list(three.files.opened._open) * (not cached):
            kept.close()
        moved = path.rename(path.with_suffix(".away"))
        if change is not None:
            new_file(path, change)
        found = rest(reader, 2, 60)
        assert records(2, 58).startswith(found)
        reader.close()
        moved.rename(path)

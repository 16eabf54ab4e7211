"""The layer over the system: whole writes, atomic replacements, nothing followed, few files open."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sim_files import FaultyFiles, MemoryFiles

from dq.errors import Damaged, LogError
from dq.log.files import Files, mapped
from dq.log.open_files import KeptFile
from dq.log.quarantine import Quarantine
from dq.log.reserve import Reserve


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=8), st.integers(1, 7), st.integers(0, 5))
def test_short_writes_are_finished(parts: list[bytes], step: int, position: int) -> None:
    class ShortFiles(MemoryFiles):
        def write_some(self, fd: int, group, position: int) -> int:  # type: ignore[no-untyped-def]
            return super().write_some(fd, [b"".join(group)[:step]], position)

    files = ShortFiles()
    fd = files.create(Path("/x"))
    files.pwritev(fd, parts, position)
    assert files.content(Path("/x")) == (bytes(position) if any(parts) else b"") + b"".join(parts)


@pytest.mark.parametrize("method", ["create", "write_some", "fdatasync", "rename", "sync_directory"])
def test_a_replacement_that_fails_leaves_the_old_file_or_the_new_one(tmp_path: Path, method: str) -> None:
    files, path = FaultyFiles(), tmp_path / "x.json"
    files.write_atomically(path, b"old")
    files.fail_next(method, errno.EIO)
    with pytest.raises(OSError, match="Input/output"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == (b"new" if method == "sync_directory" else b"old")
    files.write_atomically(path, b"newer")
    assert path.read_bytes() == b"newer"
    assert os.listdir(tmp_path) == ["x.json"]


def test_a_replacement_is_flushed_before_it_has_its_name(tmp_path: Path) -> None:
    calls = []

    class Noted(Files):
        def fdatasync(self, fd: int) -> None:
            calls.append("flush")

        def rename(self, source: Path, target: Path) -> None:
            calls.append("rename")
            super().rename(source, target)

        def sync_directory(self, path: Path) -> None:
            calls.append("directory")

    Noted().write_atomically(tmp_path / "x", b"1")
    assert calls == ["flush", "rename", "directory"]


@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory", "writable"])
def test_only_plain_files_of_ours_are_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    if kind == "symlink":
        path.symlink_to("/etc/hostname")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.touch()
        path.chmod(0o622)
    for open_ in (Files().open_read, Files().open_write):
        with pytest.raises(Damaged):
            open_(path)


def test_a_small_file_that_is_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    Files().write_new(path, b"12345")
    assert Files().read_whole(path, 5) == b"12345"
    with pytest.raises(Damaged, match="5 bytes where at most 4"):
        Files().read_whole(path, 4)


def test_files_are_not_inherited(tmp_path: Path) -> None:
    fd = Files().create(tmp_path / "x")
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_foreign_errors_are_mapped_with_their_path() -> None:
    with pytest.raises(LogError, match="cannot read /x: No such file"), mapped(Path("/x"), "read"):
        os.stat("/nothing/there")


def test_the_file_longest_unused_is_closed_first_and_one_in_use_never(tmp_path: Path) -> None:
    files = Files(open_files_max=2)
    kept = []
    for name in "abc":
        (tmp_path / name).touch(mode=0o600)
        kept.append(KeptFile(files.opened, tmp_path / name, files.open_read))
    a, b, c = kept
    with a as fd:
        with b:
            pass
        with c:
            assert (a.fd, b.fd) == (fd, -1)
        with b:
            assert (a.fd, c.fd) == (fd, -1)
    assert len(files.opened) == 2
    with c:
        assert a.fd == -1
    for file in kept:
        file.close()
        file.close()
    assert len(files.opened) == 0


def test_quarantine_never_takes_a_name_twice(tmp_path: Path) -> None:
    quarantine = Quarantine(Files(), tmp_path / "quarantine")
    first, second = quarantine.keep_bytes("a.0", b"1"), quarantine.keep_bytes("a.0", b"2")
    (tmp_path / "x").write_bytes(b"3")
    third = quarantine.take_file("a.0", tmp_path / "x")
    assert [path.read_bytes() for path in (first, second, third)] == [b"1", b"2", b"3"]
    assert [path.name for path in (first, second, third)] == ["a.0.0.torn", "a.0.1.torn", "a.0.2.torn"]


def test_a_reserve_is_taken_given_up_and_taken_again(tmp_path: Path) -> None:
    reserve = Reserve(Files(), tmp_path / "reserve", 10_000)
    assert reserve.fill()
    assert reserve.fill()
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= 10_000
    assert reserve.release()
    assert not reserve.release()
    assert reserve.fill()


def test_a_reserve_without_room_leaves_nothing_behind(tmp_path: Path) -> None:
    class FullFiles(Files):
        def allocate(self, fd: int, size: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    assert not Reserve(FullFiles(), tmp_path / "reserve", 10_000).fill()
    assert os.listdir(tmp_path) == []

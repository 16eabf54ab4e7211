"""Torn ends are cut and kept, damage is named and never passed over, and the tools understand a queue."""

from __future__ import annotations

import io
import os
import shutil

import orjson
import pytest

from dq import Damaged, InUse, NewerFormat, SyncFailed, verify
from dq.embedded import MpmcQueue, PersistentQueue
from dq.errors import DiskFull, StreamReadOnly
from dq.main import main
from dq.mend.repair import truncate
from dq.mend.salvage import salvage
from stage import Child


def filled(path, batches=6) -> list[bytes]:
    """A queue whose process died; its items."""
    queue = PersistentQueue(path)
    items: list[bytes] = []
    for n in range(batches):
        batch = [b"%d" % n, b"\xff%d" % n * (2500 if n % 2 else 1)]
        queue.push(batch)
        items += batch
    queue.pop(1)
    queue._store.abandon()
    return items[1:]


def segment(path, log="items"):
    return next((path / log).glob("*.jsonl"))


def raw(path):
    return next((path / "items").glob("*.bytes"))


def cut(file, count) -> None:
    os.truncate(file, file.stat().st_size - count)


def flip(file, place) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def test_a_torn_end_is_cut_and_kept(path) -> None:
    items = filled(path)
    whole = segment(path).read_bytes()
    cut(segment(path), 3)
    assert [log.state for log in verify(path).logs] == ["torn", "whole"]
    with PersistentQueue(path) as queue:
        assert queue.pop(99) == items[:-2]
        queue.push([b"again"])
    kept = next((path / "quarantine").glob("items.0.*.torn")).read_bytes()
    assert whole[:-3].endswith(kept)
    with PersistentQueue(path) as queue:
        assert queue.pop(9) == [b"again"]


def test_every_place_at_which_an_end_can_be_torn(path, tmp_path) -> None:
    items = filled(path, 3)
    size, start = segment(path).stat().st_size, segment(path).read_bytes().rfind(b'{"batch":')
    for place in [*range(start, size, 13), size - 1]:
        copy = tmp_path / "copy"
        shutil.copytree(path, copy)
        os.truncate(segment(copy), place)
        with PersistentQueue(copy) as queue:
            assert queue.pop(99) == items[:-2]
        shutil.rmtree(copy)


def test_raw_items_that_a_power_cut_took_are_cut_with_their_batch(path) -> None:
    items = filled(path)
    file = raw(path)
    size = file.stat().st_size
    for spoil in (lambda: cut(file, 1), lambda: file.write_bytes(file.read_bytes()[: size - 600] + bytes(600)), file.unlink):
        copy = path.with_name("copy")
        shutil.copytree(path, copy)
        before = file.read_bytes()
        spoil()
        assert [log.state for log in verify(path).logs] == ["torn", "whole"]
        with PersistentQueue(path) as queue:
            got = queue.pop(99)
            assert got == items[: len(got)]
            assert len(got) in (9, 1)  # up to the last raw batch, or the first where all are gone
            queue.push([b"\xff" * 5000, b"text"])
        with PersistentQueue(path) as queue:
            assert queue.pop(3) == [b"\xff" * 5000, b"text"]
        shutil.rmtree(path)
        shutil.move(copy, path)
        assert file.read_bytes() == before


def test_what_a_killed_push_left_of_raw_items_is_cut(path) -> None:
    items = filled(path)
    with raw(path).open("ab") as file:
        file.write(b"half of something")
    with PersistentQueue(path) as queue:
        queue.push([b"\xff" * 700])
        assert queue.pop(99) == [*items, b"\xff" * 700]
    assert next((path / "quarantine").glob("items.*.bytes.*.torn")).read_bytes() == b"half of something"


@pytest.mark.parametrize("which", ["items", "cursors", "raw"])
def test_a_flipped_bit_is_damage_that_is_named_and_stays(path, which) -> None:
    filled(path)
    file = raw(path) if which == "raw" else segment(path, which)
    flip(file, file.stat().st_size // 2)
    before = file.read_bytes()
    with pytest.raises(Damaged, match="repair") as raised:
        PersistentQueue(path)
    assert str(file) in str(raised.value)
    found = verify(path)
    assert [log.log for log in found.faults] == ["cursors" if which == "cursors" else "items"]
    assert file.read_bytes() == before
    with pytest.raises(Damaged):  # and the lock was let go
        PersistentQueue(path)


def test_every_bit_of_the_last_batches_counts(path, tmp_path) -> None:
    items = filled(path, 3)
    whole = segment(path).read_bytes()
    for place in range(len(whole) // 3, len(whole), 23):
        copy = tmp_path / "copy"
        shutil.copytree(path, copy)
        flip(segment(copy), place)
        try:
            with PersistentQueue(copy) as queue:
                got = queue.pop(99)
                assert got == items[: len(got)]
        except Damaged:
            pass
        shutil.rmtree(copy)


def test_a_queue_of_a_newer_version_is_refused_by_name(path) -> None:
    filled(path)
    content = orjson.loads((path / "queue.json").read_bytes())
    (path / "queue.json").write_bytes(orjson.dumps({**content, "format": 2}) + b"\n")
    with pytest.raises(NewerFormat):
        PersistentQueue(path)


def test_notes_that_make_no_sense_are_damage(path) -> None:
    path.mkdir(0o700)
    for kind, line in ((PersistentQueue, b'{"popped":[-1,"x"]}\n'), (lambda p: MpmcQueue(p, 5), b'{"label":"a","next":-5}\n')):
        queue = kind(path / "q")
        queue._store.note(line)
        queue._store.abandon()
        with pytest.raises(Damaged, match="none of dq wrote"):
            kind(path / "q")
        shutil.rmtree(path / "q")


def test_after_a_power_cut_cursors_beyond_the_end_go_back(path) -> None:
    queue = PersistentQueue(path)
    queue.push([b"a"])
    queue.push([b"b"])
    queue.pop(2)
    queue._store.abandon()
    content = segment(path).read_bytes()
    os.truncate(segment(path), content.rfind(b'{"batch":'))  # the cursors were flushed, the last batch was not
    with PersistentQueue(path) as queue:
        assert queue.is_empty
        queue.push([b"c"])
        queue._store.abandon()
    with PersistentQueue(path) as queue:
        assert queue.pop(5) == [b"c"]


def test_a_kill_between_a_new_log_of_cursors_and_its_snapshot(path) -> None:
    filled(path)
    with PersistentQueue(path) as queue:
        left = len(queue)
        journal = queue._store.cursors
        journal.begin()
        queue._store.abandon()
    assert len(list((path / "cursors").glob("*.jsonl"))) == 2
    with PersistentQueue(path) as queue:
        assert len(queue) == left
        queue.pop(1)
        queue._store.abandon()
    with PersistentQueue(path) as queue:
        assert len(queue) == left - 1


@pytest.mark.parametrize("kind", [b"text", b"\xff" * 5000], ids=["text", "raw"])
@pytest.mark.parametrize("flushed", [False, True])
def test_a_power_cut_can_tear_an_earlier_segment_unless_it_was_flushed(path, monkeypatch, kind, flushed) -> None:
    """Without a flush for each segment the system may have written a later one first: what follows the tear is kept aside."""
    monkeypatch.setattr("dq.embedded.store.SEGMENT_BYTES", 20_000)
    with PersistentQueue(path) as queue:
        for n in range(300):
            queue.push([b"%d" % n + kind] * 2)
            if n == 280 and flushed:
                queue._items.sync()
        queue._store.abandon()
    segments = sorted((path / "items").glob("*.jsonl"))
    assert len(segments) > 2
    file = segments[0] if kind == b"text" else segments[0].with_suffix(".bytes")
    content = bytearray(file.read_bytes())
    place = (len(content) - 4096) // 512 * 512
    content[place : place + 1024] = bytes(1024)
    file.write_bytes(content)
    if flushed:
        with pytest.raises(Damaged):
            PersistentQueue(path)
        return
    assert [log.state for log in verify(path).logs] == ["torn", "whole"]
    with PersistentQueue(path) as queue:
        got = queue.pop(10_000)
        assert 0 < len(got) < 600
        assert got == [b"%d" % n + kind for n in range(300) for _ in range(2)][: len(got)]
        queue.push([b"new"])
    with PersistentQueue(path) as queue:
        assert queue.pop(5) == [b"new"]
    assert len(list((path / "quarantine").glob("*.torn"))) >= len(segments)


# --- the tools -------------------------------------------------------------------------------------------------------
def test_verify_says_how_a_queue_is_and_changes_nothing(path, capsys) -> None:
    filled(path)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    found = verify(path)
    assert (found.running, found.faults) == (False, [])
    assert [(log.log, log.state, log.records) for log in found.logs] == [("items", "whole", 12), ("cursors", "whole", 2)]
    assert main(["verify", str(path)]) == 0
    assert "12 records" in capsys.readouterr().out
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
    with PersistentQueue(path):
        assert verify(path).running


def test_a_damaged_queue_is_saved_and_repaired(path) -> None:
    items = filled(path)
    content = segment(path).read_bytes()
    place = content.rfind(b'{"batch":', 0, content.rfind(b'{"batch":'))
    flip(segment(path), place + 20)
    saved = io.BytesIO()
    assert salvage(path / "items", saved).verified == 10
    ids = [orjson.loads(line)["id"] for line in saved.getvalue().splitlines() if b'"verified":true' in line]
    assert ids[:2] == ["items/0", "items/1"]
    with PersistentQueue(path.with_name("other")), pytest.raises(InUse):
        truncate(next((path.with_name("other") / "items").glob("*"), path.with_name("other") / "items" / f"{0:020d}.jsonl"), 0)
    done = truncate(segment(path), place)
    assert (done.log, done.ends) == ("items", [8])
    assert verify(path).faults == []
    with PersistentQueue(path) as queue:
        assert queue.pop(99) == items[:7]


# --- when the disk fails ---------------------------------------------------------------------------------------------
def test_a_disk_that_fails_ends_the_queue_with_words(path) -> None:
    queue = PersistentQueue(path)
    queue.push([b"a"])

    def fail(*_):
        raise OSError(5, "Input/output error")

    queue._items._write_on = fail
    with pytest.raises(SyncFailed, match="Input/output error"):
        queue.push([b"b"])
    with pytest.raises(StreamReadOnly, match="open it again"):
        queue.push([b"b"])
    assert queue.pop(5) == [b"a"]
    queue.close()


def test_a_write_that_is_cut_short_leaves_nothing(path) -> None:
    with PersistentQueue(path) as queue:
        queue.push([b"a"])
        write, files = queue._items._write_on, queue._store._files

        def full(*_):
            raise OSError(28, "No space left on device")

        queue._items._write_on = lambda fd, content: write(fd, content[:10])
        files.write_some = full
        with pytest.raises(DiskFull):
            queue.push([b"b"])
        del files.write_some
        queue.push([b"short", b"once"])  # the rest is written by the next call
        queue._items._write_on = write
        assert queue.pop(3) == [b"a", b"short", b"once"]
        queue.push([b"c"])
        queue._store.abandon()
    with PersistentQueue(path) as queue:
        assert queue.pop(5) == [b"c"]


def test_the_queue_is_whole_when_its_owner_is_killed_while_it_is_verified(path) -> None:
    code = (
        "from dq.embedded import PersistentQueue\n"
        "queue = PersistentQueue(sys.argv[1])\n"
        "say('open')\n"
        "while True:\n"
        "    queue.push([b'x' * 300] * 40); queue.pop(39)\n"
    )
    with Child(code, path) as child:
        child.hear()
        for _ in range(5):
            assert verify(path).faults == []
        child.kill()
    assert verify(path).faults == []

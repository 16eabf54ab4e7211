"""`PersistentQueue`: what goes in comes out once, in order, whatever ends in between."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import orjson
import pytest

from dq import BrokerManager, Closed, InUse, InvalidPayload, InvalidSetting, QueueFull, RecordTooLarge, SettingsMismatch
from dq.embedded import MpmcQueue, PersistentQueue, remove_mpmc_queue, remove_queue
from dq.log.files import Files
from stage import Child, Threaded, until

MIB = 1 << 20
KINDS = {
    "text": [
        b"ada",
        b"",
        "gr\u00fc\u00df dich".encode(),
        b'{"n": 1}',
        b"two\nlines",
        b"\t\x1b[0m",
        b'back\\slash"',
        b'{"batch":1}',
    ],
    "bytes": [os.urandom(100), b"\xff", b"", b"\x80" * 3, b"plain", b"\0" * 50],
    "large": [os.urandom(70_000), b"\xff" * 3000, b""],
}


# --- in and out ------------------------------------------------------------------------------------------------------
def test_items_come_out_in_the_order_in_which_they_went_in_and_are_gone_then(path) -> None:
    """R1: push, pop, first in first out; an item is gone when pop returns it."""
    with PersistentQueue(path) as queue:
        queue.push([b"a", b"b"])
        queue.push([b"c"])
        assert queue.pop() == [b"a"]
        assert queue.pop(5) == [b"b", b"c"]
        assert queue.pop(5) == []


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_come_back_as_they_were(path, kind) -> None:
    items = KINDS[kind]
    with PersistentQueue(path) as queue:
        queue.push(items)
        for item in items:
            queue.push([item])
        assert queue.pop(len(items)) == items
    with PersistentQueue(path) as queue:  # now from the disk
        assert queue.pop(100) == items
        assert queue.is_empty


def test_bytes_like_objects_are_items_and_nothing_else_is(path) -> None:
    """R1: bytes-like only; a str is a TypeError, and nothing is stored."""
    with PersistentQueue(path) as queue:
        buffer = bytearray(b"kept")
        queue.push([buffer, memoryview(b"view")])
        buffer[:] = b"gone"
        assert queue.pop(2) == [b"kept", b"view"]
        for wrong in (["text"], [b"a", 1], "text", b"bytes", [None], 5):
            with pytest.raises(TypeError) as raised:
                queue.push(wrong)
            assert isinstance(raised.value, InvalidPayload)
        assert len(queue) == 0


def test_a_push_that_does_not_fit_is_refused_whole(path) -> None:
    """R2: beyond max_elements nothing is stored, by the name "queue is full"."""
    with PersistentQueue(path, max_elements=3) as queue:
        queue.push([b"a", b"b"])
        with pytest.raises(QueueFull, match="queue is full"):
            queue.push([b"c", b"d"])
        queue.push([b"c"])
        with pytest.raises(QueueFull):
            queue.push([b"d"])
        assert queue.pop(9) == [b"a", b"b", b"c"]
        queue.push([b"d"])
        assert queue.len == 1


def test_nothing_is_nothing_and_an_empty_item_is_an_item(path) -> None:
    """R2: b"" is an item, an empty list is no work, pop(0) is []."""
    with PersistentQueue(path) as queue:
        queue.push([])
        assert queue.is_empty
        queue.push([b""])
        assert queue.pop(0) == []
        assert queue.len == 1
        assert queue.pop() == [b""]


@pytest.mark.parametrize("wrong", [-1, True, 1.5, "3", None])
def test_a_wrong_number_of_items_is_refused(path, wrong) -> None:
    with PersistentQueue(path) as queue:
        queue.push([b"a"])
        with pytest.raises(InvalidSetting):
            queue.pop(wrong)
        with pytest.raises(InvalidSetting):
            queue.take(wrong)
        assert len(queue) == 1


def test_sizes_are_those_of_what_waits(path) -> None:
    """R3: is_empty, len and len(), disk_size, payload_size."""
    with PersistentQueue(path) as queue:
        assert queue.is_empty
        assert (queue.len, len(queue), queue.payload_size) == (0, 0, 0)
        assert queue
        queue.push([b"abc", b"de", b""])
        assert not queue.is_empty
        assert (queue.len, len(queue), queue.payload_size) == (3, 3, 5)
        files = sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())
        assert queue.disk_size == files > 0
        queue.pop()
        assert (queue.len, queue.payload_size) == (2, 2)
    with PersistentQueue(path) as queue:
        assert (queue.len, queue.payload_size) == (2, 2)


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("size", [1, 30, 2000])
def test_sizes_are_right_after_a_start_in_the_middle_of_a_batch(path, clean, size) -> None:
    queue = PersistentQueue(path)
    for n in range(20):
        queue.push([bytes([n]) * size] * 7)
    taken = queue.take(3)
    taken.__enter__()
    queue.pop(40)
    if clean:
        queue.close()
        with pytest.raises(Closed):  # too late to say that they are gone
            taken.__exit__(None, None, None)
    else:
        abandon(queue)
    with PersistentQueue(path) as queue:
        assert len(queue) == 140 - 40
        assert queue.payload_size == (140 - 40) * size
        assert queue.pop(4) == [bytes([0]) * size] * 3 + [bytes([6]) * size]
        queue.pop(1000)
        assert queue.payload_size == 0


def abandon(queue) -> None:
    """As if its process had died: nothing is flushed, no clean end is noted."""
    queue._store.abandon()


# --- what survives ---------------------------------------------------------------------------------------------------
def test_state_survives_a_kill(path) -> None:
    """R4: 1,000 pushed, 10 popped, killed with -9: 990, and the next is "10"."""
    code = (
        "from dq.embedded import PersistentQueue\n"
        "queue = PersistentQueue(sys.argv[1])\n"
        "queue.push([b'%d' % n for n in range(1000)])\n"
        "say(len(queue.pop(10)))\n"
        "heard()\n"
    )
    with Child(code, path) as child:
        assert child.hear() == 10
        child.kill()
    with PersistentQueue(path) as queue:
        assert len(queue) == 990
        assert queue.pop() == [b"10"]


def test_a_queue_has_one_owner_and_the_second_is_told_who(path) -> None:
    """R4: a second owner of a path is refused with the pid of the first, whether in this process or in another."""
    with PersistentQueue(path):
        with pytest.raises(InUse, match=f"pid {os.getpid()}"):
            PersistentQueue(path)
        code = (
            "from dq.embedded import PersistentQueue\n"
            "try: PersistentQueue(sys.argv[1])\n"
            "except Exception as error: say(str(error))"
        )
        with Child(code, path) as child:
            assert f"pid {os.getpid()}" in child.hear()
    PersistentQueue(path).close()


def test_threads_share_a_queue(path) -> None:
    """R4: four threads push, four pop; each item is had by one of them."""
    taken: list[bytes] = []
    with PersistentQueue(path) as queue:

        def push(begin: int) -> None:
            for n in range(begin, begin + 500):
                queue.push([b"%d" % n])

        def pop() -> None:
            while items := queue.pop(7, timeout=0.5):
                taken.extend(items)

        threads = [Threaded(lambda begin=begin: push(begin)) for begin in range(0, 2000, 500)]
        threads += [Threaded(pop) for _ in range(4)]
        for thread in threads:
            thread.result()
        assert sorted(map(int, taken)) == list(range(2000))
        assert queue.is_empty


def test_a_queue_is_refused_in_a_forked_child(path) -> None:
    with PersistentQueue(path) as queue:
        queue.push([b"a"])
        pid = os.fork()
        if not pid:
            try:
                queue.pop()
            except Closed:
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
        assert queue.pop() == [b"a"]


def test_after_its_end_a_queue_is_refused(path) -> None:
    queue = PersistentQueue(path)
    queue.close()
    queue.close()
    for use in (lambda: queue.push([b"a"]), queue.pop, lambda: queue.take().__enter__(), lambda: queue.pop(1, None)):
        with pytest.raises(Closed, match="open it again"):
            use()


# --- in hand ---------------------------------------------------------------------------------------------------------
def test_what_is_taken_for_a_block_is_gone_when_it_ends_well(path) -> None:
    """R better: `with queue.take(n)` settles at the end."""
    with PersistentQueue(path) as queue:
        queue.push([b"a", b"b", b"c"])
        with queue.take(2) as items:
            assert items == [b"a", b"b"]
            assert queue.pop() == [b"c"]
            assert queue.is_empty
    with PersistentQueue(path) as queue:
        assert queue.is_empty


def test_what_is_taken_comes_back_first_when_the_block_raises(path) -> None:
    """R better: an exception gives back, before all that waits."""
    with PersistentQueue(path, max_elements=4) as queue:
        queue.push([b"a", b"b", b"c", b"d"])
        taken = queue.take(2)
        taken.__enter__()
        assert queue.pop() == [b"c"]
        with pytest.raises(QueueFull):  # what is in hand keeps its room
            queue.push([b"e", b"f"])
        taken.__exit__(KeyError, KeyError(), None)
        assert (len(queue), queue.payload_size) == (3, 3)
        assert queue.pop(9) == [b"a", b"b", b"d"]
    with PersistentQueue(path) as queue:
        assert queue.is_empty


def test_the_exception_leaves_the_block(path) -> None:
    with PersistentQueue(path) as queue:
        queue.push([b"a"])
        with pytest.raises(KeyError, match="mine"), queue.take():
            raise KeyError("mine")
        assert queue.pop() == [b"a"]


def test_what_is_taken_comes_back_after_a_kill(path) -> None:
    """R better: a crash gives back; what was settled or popped meanwhile does not come again."""
    code = (
        "from dq.embedded import PersistentQueue\n"
        "queue = PersistentQueue(sys.argv[1])\n"
        "queue.push([b'%d' % n for n in range(10)])\n"
        "with queue.take(3):\n"
        "    with queue.take(2): pass\n"
        "    say(len(queue.pop(1)))\n"
        "    heard()\n"
    )
    with Child(code, path) as child:
        assert child.hear() == 1
        child.kill()
    with PersistentQueue(path) as queue:
        assert (len(queue), queue.payload_size) == (7, 7)
        assert queue.pop(10) == [b"0", b"1", b"2", b"6", b"7", b"8", b"9"]


# --- waiting ---------------------------------------------------------------------------------------------------------
def test_a_pop_can_wait(path) -> None:
    """R better: pop and take with a timeout."""
    with PersistentQueue(path) as queue:
        begun = time.monotonic()
        assert queue.pop(timeout=0.05) == []
        assert time.monotonic() - begun >= 0.05
        for wait in (lambda: queue.pop(5, timeout=10), lambda: queue.take(5, timeout=None).__enter__()):
            waiting = Threaded(wait)
            until(lambda: queue._waiters == 1)
            queue.push([b"a", b"b"])
            assert waiting.result() == [b"a", b"b"]


def test_who_waits_is_told_that_the_queue_is_closed(path) -> None:
    queue = PersistentQueue(path)
    waiting = Threaded(lambda: queue.pop(timeout=None))
    until(lambda: queue._waiters == 1)
    queue.close()
    with pytest.raises(Closed):
        waiting.result()


# --- durability ------------------------------------------------------------------------------------------------------
def test_sync_is_on_disk_at_each_return_and_os_is_not(path, monkeypatch) -> None:
    """R9: no flush for each call by default, durability="sync" for those who want it."""
    flushed: list[int] = []
    flush = Files.fdatasync
    monkeypatch.setattr(Files, "fdatasync", lambda self, fd: (flushed.append(fd), flush(self, fd))[1])
    for durability, each in (("os", 0), ("sync", 1)):
        with PersistentQueue(path, durability=durability) as queue:
            queue.push([b"a"])
            queue.pop()
            flushed.clear()
            queue.push([b"a"])
            assert len(flushed) == each
            queue.push([b"\xff" * 5000])
            assert len(flushed) == 3 * each  # the items, then what says where they are
            queue.pop()
            assert len(flushed) == 4 * each
    with pytest.raises(InvalidSetting, match='"os" or "sync"'):
        PersistentQueue(path, durability="interval")


def test_writing_lets_other_threads_run(path, monkeypatch) -> None:
    """R9: input and output release the GIL: while one thread is in a write, another one goes on."""
    inside, go_on = threading.Event(), threading.Event()
    write = Files.write_on

    def slow(self, fd, content):
        inside.set()
        assert go_on.wait(10)
        return write(self, fd, content)

    with PersistentQueue(path) as queue:
        queue.push([b"a"])
        queue._items._write_on = slow.__get__(queue._store._files)
        pushing = Threaded(lambda: queue.push([b"b"]))
        assert inside.wait(10)
        go_on.set()
        pushing.result()


# --- disk ------------------------------------------------------------------------------------------------------------
def test_an_empty_queue_keeps_less_than_a_mib(path) -> None:
    """R better: disk comes back by the segment; an empty queue keeps < 1 MiB, whatever it has seen (here 56 MiB in all)."""
    for items in ([os.urandom(1 << 16)] * 32, [os.urandom(100)] * 5000, [b"x" * 400] * 2500):
        with PersistentQueue(path) as queue:
            for _ in range(16):
                queue.push(items)
            before = queue.disk_size
            seen = 0
            while popped := queue.pop(500):
                seen += len(popped)
                if seen == len(items) * 8:
                    assert queue.disk_size < 0.7 * before + MIB or before < 40 * MIB
            assert queue.disk_size < MIB
            queue.push([b"last"])
    with PersistentQueue(path) as queue:
        assert queue.disk_size < MIB
        assert queue.pop(9) == [b"last"]


def test_one_in_one_out_keeps_the_disk_small(path) -> None:
    with PersistentQueue(path) as queue:
        largest = 0
        for n in range(6000):
            queue.push([b"%d" % n * 30])
            assert queue.pop() == [b"%d" % n * 30]
            if n % 100 == 0:
                largest = max(largest, queue.disk_size)
        assert largest < MIB
        assert not (path / "quarantine").exists()


def test_a_file_that_cannot_be_deleted_costs_no_item(path, monkeypatch, caplog) -> None:
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    with PersistentQueue(path) as queue:
        queue.push([b"x" * 400] * 1000)
        monkeypatch.setattr(Files, "unlink", refuse)
        assert len(queue.pop(1000)) == 1000
        assert "keeps files that it does not need" in caplog.text
        monkeypatch.undo()
    with PersistentQueue(path) as queue:
        assert queue.is_empty
        assert queue.disk_size < MIB


def test_more_than_memory_keeps_is_read_from_the_disk(path, monkeypatch) -> None:
    """Beyond what is kept in memory, items are read again from the log, whether many or one came at a time."""
    monkeypatch.setattr("dq.embedded.persistent.READY_COUNT_MAX", 50)
    with PersistentQueue(path) as queue:
        sent = [b"%d" % n for n in range(3000)]
        for n in range(1000):
            queue.push([sent[n]])
        for n in range(1000, 3000, 100):
            queue.push(sent[n : n + 100])
        assert len(queue._waiting.ready) <= 51
        popped = queue.pop(30) + queue.pop(1) + queue.pop(999)
        while items := queue.pop(7):
            popped += items
        assert popped == sent
        queue.push([b"a"])
        assert queue.pop() == [b"a"]
        assert queue._waiting.reader is None


def test_a_push_of_more_than_a_batch_can_hold_is_refused(path) -> None:
    with PersistentQueue(path) as queue:
        with pytest.raises(RecordTooLarge, match="in parts"):
            queue.push([b"\xff" * (65 * MIB)])
        queue.push([b"\xff" * (40 * MIB)])
        assert len(queue.pop()[0]) == 40 * MIB


def test_offsets_beyond_32_bits_are_as_good_as_any(path) -> None:
    """RocksQ's large offsets: a queue that has seen 2^40 items goes on."""
    begin = 1 << 40
    with PersistentQueue(path) as queue:
        queue._items.next = queue._waiting.next = queue._waiting.ready_end = queue._consumed.floor = begin
        queue.push([b"a", b"b"])
        assert queue.pop() == [b"a"]
        abandon(queue)
    with PersistentQueue(path) as queue:
        assert (queue._consumed.floor, queue._items.next) == (begin + 1, begin + 2)
        assert queue.pop(3) == [b"b"]


# --- what the files say ----------------------------------------------------------------------------------------------
def test_the_log_is_lines_of_json_that_jq_reads(path) -> None:
    with PersistentQueue(path) as queue:
        queue.push([b"hello", "gr\u00fc\u00df".encode()])
        queue.push([b"\xff\xfe"])
        queue.push([b"\xff" * 3000] * 2)
        queue.pop()
        lines = [records(path / log) for log in ("items", "cursors")]
    assert [orjson.loads(line) for line in lines[0]] == ["hello", "gr\u00fc\u00df", {"base64": "//4="}, 3000, 3000]
    assert [orjson.loads(line) for line in lines[1]] == [{"floor": 0, "popped": []}, {"popped": [0, 1]}]


def records(directory) -> list[bytes]:
    """The record lines of a log, by jq."""
    only = 'select((type == "object" and (has("batch") or has("segment"))) | not)'
    command = ["jq", "-c", only, *sorted(directory.glob("*.jsonl"))]
    return subprocess.run(command, capture_output=True, check=True).stdout.splitlines()


# --- where it may be -------------------------------------------------------------------------------------------------
def test_a_brokers_directory_is_no_queue_and_the_other_way_round(tmp_path) -> None:
    """Opening what a broker owns, or the other way round, is refused by name."""
    with BrokerManager(tmp_path / "broker"):
        for make in (PersistentQueue, lambda path: MpmcQueue(path, 5), remove_queue):
            with pytest.raises(InvalidSetting, match="data directory of a broker"):
                make(tmp_path / "broker")
    with PersistentQueue(tmp_path / "queue"), pytest.raises(InvalidSetting, match="is an embedded queue"):
        BrokerManager(tmp_path / "queue")


def test_a_directory_of_somebody_elses_is_not_taken(path) -> None:
    path.mkdir(0o700)
    (path / "thesis.txt").write_text("mine")
    with pytest.raises(InvalidSetting, match=r"thesis\.txt"):
        PersistentQueue(path)
    assert [file.name for file in path.iterdir() if not file.name.startswith("queue.lock")] == ["thesis.txt"]


@pytest.mark.parametrize("wrong", ["", "a\0b", b"bytes"])
def test_a_path_that_is_none_is_refused(wrong) -> None:
    with pytest.raises(InvalidSetting):
        PersistentQueue(wrong)


def test_a_queue_of_another_kind_is_refused_by_name(tmp_path) -> None:
    PersistentQueue(tmp_path / "p").close()
    MpmcQueue(tmp_path / "m", 5).close()
    with pytest.raises(SettingsMismatch, match="a PersistentQueue, not an MpmcQueue"):
        MpmcQueue(tmp_path / "p", 5)
    with pytest.raises(SettingsMismatch, match="an MpmcQueue, not a PersistentQueue"):
        PersistentQueue(tmp_path / "m")
    with pytest.raises(SettingsMismatch):
        remove_queue(tmp_path / "m")
    with pytest.raises(SettingsMismatch):
        remove_mpmc_queue(tmp_path / "p")


def test_a_queue_is_removed_unless_it_is_open(tmp_path) -> None:
    """R8: remove_queue and remove_mpmc_queue are refused while it is open."""
    for make, remove in ((PersistentQueue, remove_queue), (lambda path: MpmcQueue(path, 5), remove_mpmc_queue)):
        path = tmp_path / "q"
        with make(path) as queue:
            (queue.push if isinstance(queue, PersistentQueue) else queue.add)([b"a"])
            with pytest.raises(InUse, match=f"pid {os.getpid()}"):
                remove(path)
        remove(path)
        assert not path.exists()
        with pytest.raises(InvalidSetting, match="no queue"):
            remove(path)
        with make(path) as queue:
            assert queue.is_empty
        (path / "other").write_text("somebody else's")
        remove(path)
        assert [file.name for file in path.iterdir()] == ["other"]
        (path / "other").unlink()
        path.rmdir()


def test_importing_it_is_light() -> None:
    """R better: nothing heavier than filelock and orjson comes along, and nothing of the broker."""
    code = "import sys, dq.embedded; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert "dq.embedded.mpmc" in loaded
    assert not {name for name in loaded if name.startswith(("dq.broker", "dq.transport", "dq.app", "dq.aio"))}
    assert {name for name in loaded if name.startswith("dq.client.")} == {"dq.client.lifetime"}
    assert not {"asyncio", "multiprocessing", "rich", "aiofiles", "socket"} & loaded
    packages = {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names)
    assert packages <= {"dq", "filelock", "orjson", "__main__", "_distutils_hack", "sitecustomize", *venv_hooks()}


def venv_hooks() -> set[str]:
    """What the interpreter loads by itself here."""
    code = "import sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    return {name.partition(".")[0] for name in loaded}


def test_a_start_after_a_clean_end_reads_nothing_of_the_items(path, monkeypatch) -> None:
    with PersistentQueue(path) as queue:
        queue.push([b"a"] * 1000)
        queue.push([b"\xff" * 1000])
        queue.pop(10)
    assert (path / "clean.json").exists()
    monkeypatch.setattr("dq.embedded.store.recover_items", lambda *_: pytest.fail("the items were read"))
    queue = PersistentQueue(path)
    assert not (path / "clean.json").exists()
    assert (len(queue), queue.payload_size) == (991, 1990)
    assert len(queue.pop(2000)) == 991
    abandon(queue)
    monkeypatch.undo()
    with PersistentQueue(path) as queue:
        assert queue.is_empty

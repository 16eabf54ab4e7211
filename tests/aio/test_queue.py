"""`write_queue` and `read_queue`, as the rows P1 to P9 have them."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from hashlib import md5
from typing import Any

import pytest
from own_backends import ElsewhereBackend, Notebook, Shoebox

import dq
from dq import BackendFailed, BrokerManager, InvalidPayload, MissingColumn, RecordTooLarge, SettingsMismatch, UsageError
from dq.aio import connect, read_queue, write_queue


def rows(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"id": f"k{n}", "n": n} for n in range(start, start + count)]


def numbers(records: list[dict[str, Any]]) -> list[int]:
    return sorted(record["n"] for record in records)


async def test_a_record_that_was_put_is_read_at_once_as_it_was(broker: BrokerManager, name: str) -> None:
    """P1, P2: visible as soon as put returns, and on disk by then; P8: one view by offset."""
    writer = await write_queue(broker, name)
    reader = await read_queue(broker, topic=name)
    record = {"id": "u1", "payload": "hello", "deep": {"a": [1, 2.5, None, True]}}
    receipts = await writer.put(record)
    assert receipts[0].durability == "sync"
    assert await reader.get(limit=10) == [record]
    assert await reader.get(limit=10) == []
    await writer.put(rows(10))
    await writer.flush()
    assert numbers(await reader.get()) == list(range(10))
    assert len(await writer.put([])) == 0
    assert (writer.queue.num_buckets, writer.queue.backend, writer.queue.bucket_column) == (4, "json", "id")


async def test_the_broker_may_be_a_handle_of_either_face_or_a_path(broker: BrokerManager, name: str) -> None:
    async with await write_queue(broker.root, name) as writer, await read_queue(str(broker.root), name) as reader:
        await writer.put(rows(1))
        assert numbers(await reader.get()) == [0]
    async with connect(broker.root) as handle:
        writer, reader = await write_queue(handle, name), await read_queue(handle, name)
        await writer.put(rows(1, 1))
        assert numbers(await reader.get()) == [0, 1]
    for act in (writer.put(rows(1)), reader.get()):  # they were closed with the handle
        with pytest.raises(dq.Closed):
            await act


@pytest.mark.parametrize("backend", ["memory", "json", ElsewhereBackend, Notebook, Shoebox])
async def test_any_backend_keeps_a_queue(broker: BrokerManager, name: str, backend: Any) -> None:
    """P1, P10: by name, or by a class of the user's own in either form; its records are read where it keeps them."""
    writer = await write_queue(broker, name, backend=backend, num_buckets=3)
    reader = await read_queue(broker, name)
    for start in range(0, 600, 200):
        await writer.put(rows(200, start))
    await writer.flush()
    found: list[int] = []
    while records := await reader.get(limit=70):
        found += numbers(records)
    assert sorted(found) == list(range(600))
    waiting = asyncio.ensure_future(reader.get(wait=True))
    await writer.put(rows(1, 600))
    assert await waiting == rows(1, 600)
    reader.set_offset(10, 0)
    records = await reader.get(limit=1000)
    assert {writer.queue.get_bucket_id(record["id"]) for record in records} == {0}
    stats = await writer.queue.stats()
    assert sum(bucket.total for bucket in stats) == 601
    assert len(records) == stats[0].total - 10


async def test_a_record_without_the_column_is_refused_and_nothing_is_put(broker: BrokerManager, name: str) -> None:
    """P3 better: checked whole before anything is sent; a ValueError that names the column, or a TypeError."""
    writer = await write_queue(broker, name, bucket_column="user")
    reader = await read_queue(broker, name)
    with pytest.raises(ValueError, match="record 1 of the list has no 'user'"):
        await writer.put([{"user": 1}, {"id": 2}])
    with pytest.raises(MissingColumn, match=r"the record has no 'user'.*it has \['id'\]"):
        await writer.put({"id": 2})
    for wrong in ("text", 7, None, ({"user": 1},), [{"user": 1}, "text"], {"user": {1, 2}}, [{"user": 1}, {"user": object()}]):
        with pytest.raises(TypeError):
            await writer.put(wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidPayload, match=r"payload.*nan"):
        await writer.put([{"user": 1}, {"user": 2, "x": float("nan")}])
    assert await reader.get() == []


async def test_a_share_that_no_batch_can_be_is_refused_whole(broker: BrokerManager, name: str) -> None:
    """P3: each bucket's share is stored whole or not at all."""
    writer = await write_queue(broker, name, num_buckets=2)
    with pytest.raises(RecordTooLarge, match=r"for bucket \d: a share is stored whole or not at all.*nothing was put"):
        await writer.put([{"id": n % 2, "pad": "x" * 100_000} for n in range(40)])
    with pytest.raises(RecordTooLarge, match="10,000 records"):
        await writer.put([{"id": 1} for _ in range(10_001)])
    assert await (await read_queue(broker, name)).get() == []
    await writer.put([{"id": n, "pad": "x" * 1_000} for n in range(1_500)])


async def test_an_error_of_one_bucket_says_what_is_stored(broker: BrokerManager, name: str) -> None:
    """P3: an error names what was stored, and the other buckets' shares are there."""
    writer = await write_queue(broker, name, num_buckets=2, backend=Notebook)
    one, other = (next(n for n in range(99) if writer.queue.get_bucket_id(n) == bucket) for bucket in (0, 1))
    with pytest.raises(BackendFailed, match=r"a bad record.*stored are: 2 in bucket 1; not confirmed: 3 in bucket 0") as caught:
        await writer.put([{"id": one}, {"id": other}, {"id": one, "bad": True}, {"id": one}, {"id": other}])
    assert [receipt.id for receipt in caught.value.receipts] == [f"{name}/1/0", f"{name}/1/1"]
    assert await (await read_queue(broker, name)).get() == [{"id": other}] * 2


async def test_the_bucket_is_the_md5_of_the_value(broker: BrokerManager, name: str) -> None:
    """P4: the same value always goes to the same bucket; an explicit None is ""."""
    writer = await write_queue(broker, name, num_buckets=8)
    for value in ("a", 1, 1.5, True, "", "ü", None):
        text = "" if value is None else str(value)
        bucket = int(md5(text.encode()).hexdigest(), 16) % 8
        assert writer.queue.get_bucket_id(value) == bucket
        await writer.put({"id": value})
        assert await (await read_queue(broker, name, bucket_id=bucket)).get(limit=1000) != []
    assert writer.queue.get_bucket_id(None) == writer.queue.get_bucket_id("")


async def test_which_buckets_are_read(broker: BrokerManager, name: str) -> None:
    """P5: rank and world_size go before bucket_id, that before bucket_ids; none of them: all. A reader may come first."""
    by_rank = [await read_queue(broker, name, rank=rank, world_size=2, num_buckets=4) for rank in range(2)]
    assert [reader.bucket_ids for reader in by_rank] == [[0, 2], [1, 3]]
    assert (await read_queue(broker, name, 3, [0], rank=1, world_size=3)).bucket_ids == [1]
    assert (await read_queue(broker, name, 3, [0])).bucket_ids == [3]
    assert (await read_queue(broker, name, bucket_ids=[2, 0, 2])).bucket_ids == [0, 2]
    assert (await read_queue(broker, name)).bucket_ids == [0, 1, 2, 3]
    spare = await read_queue(broker, name, rank=5, world_size=9)
    assert (spare.bucket_ids, await spare.get(), await spare.get(wait=True, timeout=0.01)) == ([], [], [])
    spare.reset()
    spare.set_offset(3)
    writer = await write_queue(broker, name)
    await writer.put(rows(100))
    shares = [numbers(await reader.get()) for reader in by_rank]
    assert sorted(shares[0] + shares[1]) == list(range(100))
    ranks = {"rank": 2, "world_size": 2}, {"rank": -1, "world_size": 2}, {"rank": 0}
    for wrong in (*ranks, {"bucket_id": 4}, {"bucket_ids": [0, -1]}):
        with pytest.raises(ValueError):
            await read_queue(broker, name, **wrong)  # type: ignore[arg-type]


async def test_offsets_move_by_what_was_returned_and_can_be_set(broker: BrokerManager, name: str) -> None:
    """P6: get, reset, set_offset; past the end there is nothing; negative is a ValueError."""
    writer, reader = await write_queue(broker, name, num_buckets=2), await read_queue(broker, name)
    await writer.put(rows(50))
    ends = [bucket.total for bucket in await writer.queue.stats()]
    assert len(await reader.get(limit=20)) == 20
    assert sum(reader.offsets.values()) == 20
    assert len(await reader.get(limit=1_000)) == 30
    assert reader.offsets == dict(enumerate(ends))
    reader.reset()
    assert len(await reader.get(limit=1_000)) == 50
    reader.set_offset(ends[1] - 2, bucket_id=1)
    assert len(await reader.get()) == 2
    reader.set_offset(5)
    assert len(await reader.get()) == 40
    reader.set_offset(10_000)
    assert await reader.get() == []
    reader.set_offset(ends[0] + 1, bucket_id=0)
    assert await reader.get() == []
    assert await reader.get(limit=0) == []
    for wrong in (-1, 1.5, "1", True):
        with pytest.raises(ValueError):
            reader.set_offset(wrong)  # type: ignore[arg-type]
        with pytest.raises(ValueError):
            await reader.get(limit=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="does not read bucket 7"):
        reader.set_offset(0, bucket_id=7)


async def test_a_wait_ends_with_the_first_record_of_any_bucket(broker: BrokerManager, name: str) -> None:
    """P better: not bucket by bucket, nor only when `limit` is full; timeout=0 does not wait."""
    writer, reader = await write_queue(broker, name, num_buckets=8), await read_queue(broker, name)
    clock = asyncio.get_running_loop().time
    for n in range(8):
        waiting = asyncio.ensure_future(reader.get(limit=100, wait=True))
        await asyncio.sleep(0.01)
        await writer.put({"id": n})
        assert await asyncio.wait_for(waiting, 5) == [{"id": n}]
    since = clock()
    assert await reader.get(wait=True, timeout=0) == []
    assert await reader.get(wait=False, timeout=50) == []
    assert await reader.get(wait=True, timeout=0.05) == []
    assert 0.04 < clock() - since < 2


async def test_a_busy_bucket_starves_no_other(broker: BrokerManager, name: str) -> None:
    """P better: buckets are served in turn."""
    writer = await write_queue(broker, name, num_buckets=4)
    values = {writer.queue.get_bucket_id(n): n for n in range(50)}
    await writer.put([{"id": values[0]} for _ in range(5_000)])
    await writer.put([{"id": values[bucket]} for bucket in (1, 2, 3)])
    first = await (await read_queue(broker, name)).get(limit=400)
    assert {writer.queue.get_bucket_id(record["id"]) for record in first} == {0, 1, 2, 3}


async def test_a_cancelled_get_loses_nothing(broker: BrokerManager, name: str) -> None:
    """What is cancelled has read nothing, wherever it was."""
    writer, reader = await write_queue(broker, name, num_buckets=2), await read_queue(broker, name)
    for round_ in range(15):
        getting = asyncio.ensure_future(reader.get(limit=7, wait=True))
        for _ in range(round_ % 5):
            await asyncio.sleep(0.0005)
        await writer.put(rows(10, 10 * round_)) if round_ % 2 else None
        getting.cancel()
        await asyncio.gather(getting, return_exceptions=True)
        if not getting.cancelled():
            reader.reset()
    seen: list[int] = []
    while records := await reader.get():
        seen += numbers(records)
    assert Counter(seen) == Counter(n for round_ in range(1, 15, 2) for n in range(10 * round_, 10 * round_ + 10))


async def test_the_blocking_form_is_for_threads(broker: BrokerManager, name: str) -> None:
    """P7: sync() on writer and reader; inside a running event loop it is refused."""
    writer = (await write_queue(broker, name)).sync()
    reader = (await read_queue(broker, name)).sync()

    def in_a_thread() -> list[dict[str, Any]]:
        waiting: list[list[dict[str, Any]]] = []
        thread = threading.Thread(target=lambda: waiting.append(reader.get(wait=True, timeout=10)))
        thread.start()
        writer.put({"id": "1", "value": 100})
        writer.flush()
        thread.join()
        with pytest.raises(TypeError):
            writer.put("text")  # type: ignore[arg-type]
        reader.reset()
        return [*waiting[0], *reader.get(limit=10)]

    assert await asyncio.to_thread(in_a_thread) == [{"id": "1", "value": 100}] * 2
    for act in (lambda: writer.put({"id": 1}), writer.flush, reader.get):
        with pytest.raises(UsageError, match=r"blocks, and this thread runs an event loop: await"):
            act()
    assert writer.queue.get_bucket_id("1") == (await read_queue(broker, name)).queue.get_bucket_id("1")
    with reader, writer:
        pass


async def test_another_number_of_buckets_is_a_mismatch(broker: BrokerManager, name: str) -> None:
    """P better: a wrong num_buckets does not read a subset; settings live with the data."""
    await write_queue(broker, name, num_buckets=3)
    for act in (
        write_queue(broker, name),
        read_queue(broker, name, num_buckets=4),
        write_queue(broker, name, num_buckets=3, backend="memory"),
    ):
        with pytest.raises(SettingsMismatch, match=r"buckets=3 \(asked for: 4\)|backend='json'"):
            await act
    assert (await read_queue(broker, name, num_buckets=3)).queue.num_buckets == 3


async def test_what_there_is_by_bucket(broker: BrokerManager, name: str, tmp_path) -> None:
    """P9: buffered, persisted, total, backend; a class of the user's own is flushed by flush()."""
    writer = await write_queue(broker, name, num_buckets=2)
    await writer.put(rows(20))
    stats = await writer.queue.stats()
    assert [(bucket.bucket, bucket.buffered, bucket.backend) for bucket in stats] == [(0, 0, "json"), (1, 0, "json")]
    assert sum(bucket.persisted for bucket in stats) == sum(bucket.total for bucket in stats) == 20
    memory = await write_queue(broker, f"{name}-m", num_buckets=1, backend="memory")
    await memory.put(rows(5))
    await memory.flush()
    [only] = await memory.queue.stats()
    assert (only.buffered, only.persisted, only.total, only.backend) == (5, 0, 5, "memory")
    broker.stream(f"{name}-n", buckets=1, backend=Notebook, sync_seconds=3600, backend_options={"storage_path": str(tmp_path)})
    own = await write_queue(broker, f"{name}-n", num_buckets=1, backend=Notebook, storage_path=str(tmp_path))
    await own.put(rows(5))
    [only] = await own.queue.stats()
    assert (only.buffered, only.persisted, only.total) == (5, 0, 5)
    await own.flush()
    [only] = await own.queue.stats()
    assert (only.buffered, only.persisted, only.total, only.backend) == (0, 5, 5, "own_backends:Notebook")
    assert "flush" in (tmp_path / f"{name}-n" / "bucket_0" / "calls").read_text()


async def test_storage_path_is_for_classes_of_the_users_own(broker: BrokerManager, name: str) -> None:
    """P1: the data directory is the broker's."""
    for backend in ("json", "memory"):
        with pytest.raises(ValueError, match=r"storage_path='/data/queues' is for a backend class of your own"):
            await write_queue(broker, name, storage_path="/data/queues", backend=backend)
    with pytest.raises(ValueError, match="Shoebox takes no storage_path"):
        await write_queue(broker, name, storage_path="/data/queues", backend=Shoebox)
    with pytest.raises(ValueError, match="name of a column"):
        await write_queue(broker, name, bucket_column="")
    assert name not in broker.streams()

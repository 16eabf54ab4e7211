"""What the tests of the other system hold, ported: many writers, readers and buckets; none lost, none doubled."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any
from zlib import crc32

from dq import BrokerManager
from dq.aio import QueueReader, connect, read_queue, write_queue


async def all_of(reader: QueueReader, limit: int = 100) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while records := await reader.get(limit):
        found += records
    return found


def ids(records: list[dict[str, Any]]) -> Counter[str]:
    return Counter(record["id"] for record in records)


async def test_ten_writers_of_a_hundred(broker: BrokerManager, name: str) -> None:
    """P Tests: 10 writers x 100."""

    async def write(number: int) -> None:
        async with await write_queue(broker, name) as writer:
            for n in range(100):
                await writer.put({"id": f"{number}-{n}", "writer": number, "n": n})

    await asyncio.gather(*(write(number) for number in range(10)))
    records = await all_of(await read_queue(broker, name))
    assert ids(records) == Counter(f"{number}-{n}" for number in range(10) for n in range(100))


async def test_ten_readers_of_five_hundred(broker: BrokerManager, name: str) -> None:
    """P Tests: 10 readers of 500: each sees all, by its own offsets."""
    writer = await write_queue(broker, name)
    await writer.put([{"id": f"{n}"} for n in range(500)])
    readers = [await read_queue(broker, name) for _ in range(10)]
    for records in await asyncio.gather(*(all_of(reader) for reader in readers)):
        assert ids(records) == Counter(map(str, range(500)))


async def test_five_producers_and_three_ranked_consumers(broker: BrokerManager, name: str) -> None:
    """P Tests: 5 producers + 3 ranked consumers, at the same time."""
    done = asyncio.Event()

    async def produce(number: int) -> None:
        writer = await write_queue(broker, name, num_buckets=6)
        for n in range(40):
            await writer.put([{"id": f"{number}-{n}-{k}"} for k in range(5)])

    async def consume(rank: int) -> list[dict[str, Any]]:
        reader, found = await read_queue(broker, name, rank=rank, world_size=3, num_buckets=6), []
        while True:
            was_done = done.is_set()
            records = await reader.get(limit=50, wait=True, timeout=0.05)
            found += records
            if was_done and not records:
                return found

    await write_queue(broker, name, num_buckets=6)
    consumers = [asyncio.ensure_future(consume(rank)) for rank in range(3)]
    await asyncio.gather(*(produce(number) for number in range(5)))
    done.set()
    shares = await asyncio.gather(*consumers)
    assert all(shares)
    assert ids([record for share in shares for record in share]) == Counter(
        f"{a}-{n}-{k}" for a in range(5) for n in range(40) for k in range(5)
    )


async def test_thirty_two_buckets_of_five_hundred(broker: BrokerManager, name: str) -> None:
    """P Tests: 32 buckets x 500: each record in the bucket of its value, in the order in which it was put."""
    writer = await write_queue(broker, name, num_buckets=32)
    values = {writer.queue.get_bucket_id(n): n for n in range(1_000)}
    assert sorted(values) == list(range(32))
    await writer.put([{"id": values[bucket], "n": n} for n in range(500) for bucket in range(32)])

    async def bucket_of(bucket: int) -> list[dict[str, Any]]:
        return await all_of(await read_queue(broker, name, bucket_id=bucket), 500)

    for bucket, records in enumerate(await asyncio.gather(*map(bucket_of, range(32)))):
        assert records == [{"id": values[bucket], "n": n} for n in range(500)]
    assert [stats.total for stats in await writer.queue.stats()] == [500] * 32


async def test_fifty_flush_cycles_of_ten(broker: BrokerManager, name: str) -> None:
    """P Tests: 50 flush cycles x 10, then all 500."""
    writer = await write_queue(broker, name)
    for cycle in range(50):
        await writer.put([{"id": f"{cycle}-{n}"} for n in range(10)])
        await writer.flush()
    assert len(ids(await all_of(await read_queue(broker, name)))) == 500


async def test_two_hundred_records_with_checksums(broker: BrokerManager, name: str) -> None:
    """P Tests: 200 checksummed records come back as they were."""
    chance = random.Random(4)
    writer = await write_queue(broker, name)
    for n in range(200):
        text = "".join(chance.choices('aé€😀\n"\\\t ', k=chance.randrange(300)))
        await writer.put({"id": n, "text": text, "sum": crc32(text.encode())})
    records = await all_of(await read_queue(broker, name))
    assert len(records) == 200
    assert all(crc32(record["text"].encode()) == record["sum"] for record in records)


async def test_joins_leaves_and_resets_at_random_under_load(broker: BrokerManager, name: str) -> None:
    """P Tests: random joins, leaves, resets under load: none lost, none doubled, for every reader since its last reset."""
    chance, written = random.Random(7), Counter[str]()
    await write_queue(broker, name, num_buckets=5)

    async def write(number: int) -> None:
        for visit in range(4):
            async with connect(broker.root) as handle:
                writer = await write_queue(handle, name, num_buckets=5)
                for n in range(chance.randrange(5, 25)):
                    records = [{"id": f"{number}-{visit}-{n}-{k}"} for k in range(chance.randrange(1, 6))]
                    await writer.put(records)
                    written.update(ids(records))

    async def read(stop: asyncio.Event) -> Counter[str]:
        reader, seen = await read_queue(broker, name), Counter[str]()
        while True:
            stopped = stop.is_set()
            records = await reader.get(limit=chance.randrange(1, 60), wait=True, timeout=0.02)
            seen.update(ids(records))
            if stopped and not records:
                return seen
            event = chance.random()
            if event < 0.05:
                reader.reset()
                seen.clear()
            elif event < 0.1:
                offsets = reader.offsets
                await reader.close()
                reader = await read_queue(broker, name)
                for bucket, offset in offsets.items():
                    reader.set_offset(offset, bucket)

    stop = asyncio.Event()
    readers = [asyncio.ensure_future(read(stop)) for _ in range(4)]
    await asyncio.gather(*(write(number) for number in range(4)))
    stop.set()
    for seen in await asyncio.gather(*readers):
        assert seen == written

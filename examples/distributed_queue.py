"""A queue shared out to buckets: producers and ranked consumers in processes of their own, from end to end.

    uv run python examples/distributed_queue.py [DIRECTORY]

1. Three producer processes put orders, each with the customer as its key: all orders of one customer are in one bucket.
2. Two consumer processes read the same queue by rank: rank 0 has the buckets 0 and 2, rank 1 the buckets 1 and 3. They come and
   go as they like: what was put before they came waits on disk.
3. Consumer 0 is killed on its way, consumer 1 when all is put. They come again where their saved offsets are. What they had
   seen since those were saved they see once more, and know it by the number of the order.
4. In the end each order was counted exactly once, and each customer's in the order in which they were placed.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from dq.aio import BrokerManager, connect, read_queue, write_queue

TOPIC, BUCKETS, CONSUMERS, PRODUCERS, ORDERS = "orders", 4, 2, 3, 200
KILLED_AFTER = 150


async def produce(directory: str, number: int) -> None:
    """One producer: puts its orders in lists of ten."""
    async with connect(directory) as broker:
        writer = await write_queue(broker, TOPIC, bucket_column="customer", num_buckets=BUCKETS)
        for first in range(0, ORDERS, 10):
            await writer.put(
                [{"customer": f"c{number}-{n % 7}", "order": f"{number}-{n}", "n": n} for n in range(first, first + 10)]
            )
        await writer.flush()


async def consume(directory: str, rank: int, seen_file: Path, follow: bool) -> None:
    """One consumer: goes on where its file says, and writes there what it has seen, and how far it is.

    Args:
        follow: whether it waits at the end for more, until it is killed.
    """
    kept = json.loads(seen_file.read_text()) if seen_file.exists() else {"seen": [], "offsets": {}}
    chance = random.Random(rank)
    seen: dict[str, list[object]] = {order[0]: order for order in kept["seen"]}
    async with connect(directory) as broker:
        reader = await read_queue(broker, TOPIC, rank=rank, world_size=CONSUMERS, num_buckets=BUCKETS)
        for bucket, offset in kept["offsets"].items():
            reader.set_offset(offset, int(bucket))
        while records := await reader.get(limit=25, wait=follow):
            for record in records:  # delivered again is not counted again
                seen.setdefault(record["order"], [record["order"], record["customer"], record["n"]])
            print(len(seen), flush=True)
            if chance.random() < 0.5:  # not each time: a consumer that is killed sees some of them once more
                write_whole(seen_file, {"seen": list(seen.values()), "offsets": reader.offsets})
        write_whole(seen_file, {"seen": list(seen.values()), "offsets": reader.offsets})


def write_whole(path: Path, what: object) -> None:
    """All of it or nothing."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(what))
    fresh.replace(path)


def started(role: str, *arguments: object) -> subprocess.Popen[str]:
    """A process of its own."""
    command = [sys.executable, __file__, role, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def run(directory: Path) -> dict[str, list[list[object]]]:
    """Producers, consumers and the kill; what each customer ordered, as it was seen."""
    data, files = directory / "queue_data", [directory / f"consumer-{rank}.json" for rank in range(CONSUMERS)]
    producers = [started("produce", data, number) for number in range(PRODUCERS)]
    consumers = [started("consume", data, rank, files[rank], "follow") for rank in range(CONSUMERS)]
    for line in consumers[0].stdout or ():
        if int(line) >= KILLED_AFTER:
            consumers[0].kill()
            print(f"consumer 0 was killed when it had seen {int(line)} orders; it comes again")
            break
    for producer in producers:
        producer.communicate()
    consumers[1].kill()
    for consumer in (*consumers, *(started("consume", data, rank, files[rank], "rest") for rank in range(CONSUMERS))):
        consumer.communicate()
    customers: dict[str, list[list[object]]] = defaultdict(list)
    for file in files:
        for order in json.loads(file.read_text())["seen"]:
            customers[order[1]].append(order)
    return customers


async def main(directory: Path) -> None:
    """The whole of it."""
    async with BrokerManager(directory / "queue_data") as broker:
        await write_queue(broker, TOPIC, bucket_column="customer", num_buckets=BUCKETS)
        customers = await asyncio.to_thread(run, directory)
        shares = [stats.total for stats in await (await read_queue(broker, TOPIC)).queue.stats()]
    count = sum(map(len, customers.values()))
    in_order = all([order[2] for order in orders] == sorted(order[2] for order in orders) for orders in customers.values())
    print(f"{count} of {PRODUCERS * ORDERS} orders of {len(customers)} customers, in buckets of {shares}")
    print("each counted once:", len({order[0] for orders in customers.values() for order in orders}) == count)
    print("each customer's in order:", in_order)


if __name__ == "__main__":
    if sys.argv[1:2] == ["produce"]:
        asyncio.run(produce(sys.argv[2], int(sys.argv[3])))
    elif sys.argv[1:2] == ["consume"]:
        asyncio.run(consume(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]), sys.argv[5] == "follow"))
    elif len(sys.argv) > 1:
        asyncio.run(main(Path(sys.argv[1])))
    else:
        with tempfile.TemporaryDirectory() as directory:
            asyncio.run(main(Path(directory)))

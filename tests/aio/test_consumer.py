"""`dq.aio.Consumer`: tasks by `async for`, many coroutines at once, and cancellations that lose nothing."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from contextlib import aclosing

import pytest

from dq import BrokerManager
from dq.aio import Consumer, Publisher
from stage import pids, settled, sink_of, until


async def publish(broker: BrokerManager, stream: str, count: int) -> None:
    async with Publisher(broker, stream) as publisher:
        await publisher.publish_many(range(count))


async def test_tasks_come_by_async_for_and_are_settled(broker: BrokerManager, name: str) -> None:
    await publish(broker, name, 2_000)
    found = []
    async with Consumer(broker, name, sink=name, idle_timeout=0.2) as consumer:
        async for task in consumer:
            with task:
                found.append(task.payload)
        await consumer.flush()
        assert sink_of(broker, name)["settled"] == 2_000
        assert consumer.consumer_id.startswith("c-")
    assert found == list(range(2_000))


async def test_coroutines_share_the_tasks_of_one_consumer(broker: BrokerManager, name: str) -> None:
    await publish(broker, name, 1_000)
    seen: Counter[int] = Counter()
    shares: Counter[int] = Counter()

    async def work(number: int, consumer: Consumer) -> None:
        async for task in consumer:
            with task:
                await asyncio.sleep(0)
                seen[task.payload] += 1
                shares[number] += 1

    async with Consumer(broker, name, sink=name, idle_timeout=0.3) as consumer:
        await asyncio.gather(*(work(number, consumer) for number in range(5)))
    assert seen == Counter(range(1_000))
    assert len(shares) == 5


async def test_hundreds_of_consumers_can_wait_at_once(broker: BrokerManager, name: str) -> None:
    async def one(number: int) -> int:
        async with (
            Consumer(broker, f"{name}-{number}", sink=f"{name}-{number}") as consumer,
            aclosing(aiter(consumer)) as tasks,
        ):
            async for task in tasks:
                with task:
                    return int(task.payload)
        return -1

    waiting = [asyncio.ensure_future(one(number)) for number in range(60)]
    await asyncio.sleep(0)
    for number in range(60):
        await publish(broker, f"{name}-{number}", 1)
    assert await asyncio.gather(*waiting) == [0] * 60


async def test_a_cancelled_wait_loses_nothing_and_can_be_begun_again(broker: BrokerManager, name: str) -> None:
    async def first(consumer: Consumer) -> int:
        async with aclosing(aiter(consumer)) as tasks:
            async for task in tasks:
                with task:
                    return int(task.payload)
        return -1

    async with Consumer(broker, name, sink=name) as consumer:
        for round_ in range(20):
            waiting = asyncio.ensure_future(first(consumer))
            for _ in range(round_ % 4):  # wherever it is by then
                await asyncio.sleep(0.001)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        await publish(broker, name, 3)
        assert [await first(consumer) for _ in range(3)] == [0, 1, 2]
    until(lambda: settled(broker, name, 3))


async def test_a_task_at_hand_is_given_back_when_its_coroutine_is_cancelled(broker: BrokerManager, name: str) -> None:
    await publish(broker, name, 10)
    at_hand = asyncio.Event()

    async def stuck(consumer: Consumer) -> None:
        async for task in consumer:
            with task:
                at_hand.set()
                await asyncio.Event().wait()

    async with Consumer(broker, name, sink=name) as consumer:
        work = asyncio.ensure_future(stuck(consumer))
        await at_hand.wait()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
    found = []
    async with Consumer(broker, name, sink=name, idle_timeout=0.3) as consumer:
        async for task in consumer:
            with task:
                found.append((task.payload, task.attempt))
    assert sorted(found) == [(n, 1) for n in range(10)]


async def test_stop_ends_the_iteration(broker: BrokerManager, name: str) -> None:
    async with Consumer(broker, name, sink=name) as consumer:

        async def all_of_it() -> list[int]:
            return [task.payload async for task in consumer]

        iteration = asyncio.ensure_future(all_of_it())
        await asyncio.sleep(0.01)
        consumer.stop()
        assert await iteration == []


async def test_a_flush_that_is_cancelled_leaves_no_thread_behind(tmp_path) -> None:
    with BrokerManager(tmp_path / "data") as broker:
        await publish(broker, "s", 1)
        async with Consumer(broker, "s", sink="s") as consumer, aclosing(aiter(consumer)) as tasks:
            task = await anext(tasks)
            stopped = pids(broker)[1]
            os.kill(stopped, signal.SIGSTOP)
            task.ack()
            flush = asyncio.ensure_future(consumer.flush())
            await asyncio.sleep(0.05)
            flush.cancel()
            with pytest.raises(asyncio.CancelledError):
                await flush
            os.kill(stopped, signal.SIGCONT)
            await consumer.flush()
            assert sink_of(broker, "s")["settled"] == 1

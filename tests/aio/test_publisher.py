"""`dq.aio.Publisher`: receipts that are awaited, batches that grow under load, and cancellations that lose nothing."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator

import pytest

import dq
from dq import BrokerManager, InvalidPayload, PublishTimeout, RecordTooLarge, TaskIn, UsageError
from dq.aio import Publisher
from stage import pids


def stored(broker: BrokerManager, stream: str) -> int:
    return broker.stats()["publisher_broker"]["streams"][stream]["records"]


async def test_a_record_is_published_and_its_receipt_awaited(broker: BrokerManager, name: str) -> None:
    async with Publisher(broker, name) as publisher:
        receipt = await publisher.publish({"n": 1}, key="k", topic="t", name="made", headers={"a": "b"})
        assert receipt == dq.Receipt(f"{name}/0/0", "sync")
        assert (await publisher.submit(2)).id == f"{name}/0/1"
        assert publisher.id.startswith("p-")
        with pytest.raises(InvalidPayload):
            await publisher.publish({1, 2})
        with pytest.raises(InvalidPayload):
            publisher.submit(float("nan"))


async def test_it_is_used_by_async_with(broker: BrokerManager, name: str) -> None:
    publisher = Publisher(broker, name)
    with pytest.raises(UsageError, match=r"use it by `async with Publisher"):
        await publisher.publish(1)
    assert repr(publisher) == "<aio.Publisher, not connected>"
    await publisher.close()
    async with publisher:
        await publisher.publish(1)
    with pytest.raises(dq.Closed):
        await publisher.publish(2)
    await publisher.close()
    with pytest.raises(dq.UnknownStream):
        await Publisher(broker, "nowhere", create=False).__aenter__()


async def test_many_at_once_share_batches_and_keep_their_order(broker: BrokerManager, name: str) -> None:
    async with Publisher(broker, name) as publisher:
        futures = [publisher.submit({"n": n, "pad": "x" * 200}) for n in range(5_000)]
        assert [(await future).id for future in futures] == [f"{name}/0/{n}" for n in range(5_000)]
        receipts = await asyncio.gather(*(publisher.publish(n) for n in range(500)))
        assert sorted(int(receipt.id.split("/")[2]) for receipt in receipts) == list(range(5_000, 5_500))


async def test_many_are_published_from_any_iterable(broker: BrokerManager, name: str) -> None:
    async def slowly() -> AsyncIterator[int]:
        for n in range(3_000):
            if n % 1_000 == 0:
                await asyncio.sleep(0)
            yield n

    broker.stream(name, buckets=4)
    async with Publisher(broker, name) as publisher:
        assert len(await publisher.publish_many(range(3_000))) == 3_000
        assert len(await publisher.publish_many(slowly(), key=lambda n: str(n % 7))) == 3_000
        assert len(await publisher.publish_many([TaskIn(1, key="a"), b"bytes"])) == 2
        assert len(await publisher.publish_many([])) == 0
    assert stored(broker, name) == 6_002


@pytest.mark.parametrize("is_async", [False, True])
async def test_an_error_tells_what_was_published_before_it(broker: BrokerManager, name: str, *, is_async: bool) -> None:
    def items() -> Iterator[object]:
        yield from range(10)
        yield {1, 2}

    def raising() -> Iterator[object]:
        yield from range(5)
        raise ZeroDivisionError

    async def over(source: Iterator[object]) -> AsyncIterator[object]:
        for item in source:
            yield item

    async with Publisher(broker, name) as publisher:
        with pytest.raises(InvalidPayload) as caught:
            await publisher.publish_many(over(items()) if is_async else items())
        assert len(caught.value.receipts) == 10
        with pytest.raises(ZeroDivisionError):
            await publisher.publish_many(over(raising()) if is_async else raising())
        with pytest.raises(RecordTooLarge):
            await publisher.publish_many(["x" * (17 << 20)])
    assert stored(broker, name) == 15


async def test_flush_and_close_wait_for_all_that_was_handed_in(broker: BrokerManager, name: str) -> None:
    async with Publisher(broker, name, linger=30) as publisher:
        future = publisher.submit(1)
        await asyncio.sleep(0)
        assert not future.done()
        await publisher.flush()
        assert future.done()
        later = [publisher.submit("x" * 1_000) for _ in range(1_000)]
        await publisher.flush()
        assert all(each.done() for each in later)
        last = publisher.submit(2)
    assert (await last).id == f"{name}/0/1001"


async def test_who_is_cancelled_takes_nothing_back(broker: BrokerManager, name: str) -> None:
    async with Publisher(broker, name) as publisher:
        tasks = [asyncio.ensure_future(publisher.publish(n)) for n in range(100)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await publisher.flush()
        assert stored(broker, name) == 100
        given = asyncio.Event()

        async def endless() -> AsyncIterator[int]:
            yield from_here
            given.set()
            await asyncio.Event().wait()

        from_here = 1
        many = asyncio.ensure_future(publisher.publish_many(endless()))
        await given.wait()
        many.cancel()
        with pytest.raises(asyncio.CancelledError):
            await many
    assert stored(broker, name) == 101


async def test_a_broker_that_stands_still_holds_up_no_loop(tmp_path) -> None:
    with BrokerManager(tmp_path / "data") as broker:
        async with Publisher(broker, "s") as publisher:
            await publisher.publish(0)
            writer = pids(broker)[0]
            os.kill(writer, signal.SIGSTOP)
            try:
                with pytest.raises(PublishTimeout) as caught:
                    await publisher.publish(1, timeout=0.05)
                # More than the kernel takes: the loop goes on all the same
                futures = [publisher.submit("x" * 100_000) for _ in range(200)]
                with pytest.raises(PublishTimeout):
                    await publisher.flush(0.05)
            finally:
                os.kill(writer, signal.SIGCONT)
            assert (await caught.value.future).id == "s/0/1"
            assert (await futures[-1]).id == "s/0/201"

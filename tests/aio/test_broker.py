"""`dq.aio.BrokerManager`, `connect`, `Stream`, `Sink` and `Reader`: the names of `dq`, awaited."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

import dq
from dq import BrokerManager, SettingsMismatch, aio
from dq.aio import Publisher, Reader, connect
from stage import alive


async def test_a_broker_is_started_attached_to_and_stopped(tmp_path: Path) -> None:
    path = tmp_path / "data"
    manager = aio.BrokerManager(path)
    assert manager.root == path
    with pytest.raises(dq.UsageError, match="async with BrokerManager"):
        await manager.stats()
    async with manager as broker:
        with pytest.raises(dq.BrokerRunning):
            await aio.BrokerManager(path).__aenter__()
        async with connect(path) as handle:
            assert (await handle.publish("emails", {"n": 1}, key="k")).id == "emails/0/0"
            assert await broker.streams() == ["emails"]
            assert (await handle.broadcast("news", 1)).told == 0
            pid = (await handle.stats())["pid"]
        with pytest.raises(dq.Closed):
            await handle.stats()
        await broker.stop()
        assert not alive(pid)
    with pytest.raises(dq.BrokerNotRunning):
        await connect(path).__aenter__()


async def test_a_stream_is_held_in_the_hand(broker: BrokerManager, name: str) -> None:
    async with connect(broker.root) as handle:
        stream = await handle.stream(name, buckets=2, durability="os")
        assert (stream.name, stream.buckets, stream.settings.durability) == (name, 2, "os")
        first = await stream.add("made", 1, key="a")
        assert await stream.topic("eu").add("made", 2, key="a") == f"{first[:-1]}1"
        assert stream.topic("eu").name == "eu"
        await stream.sync()
        assert broker.stats()["publisher_broker"]["streams"][name]["unsynced"] == 0
        assert await stream.remove(first) == 1
        assert (await stream.stats()).records == 1
        assert await stream.trim(max_records=0) == 1
        with pytest.raises(SettingsMismatch):
            await handle.stream(name, buckets=3)
        await stream.destroy()
        assert name not in await handle.streams()
        assert await stream.add("made", 1, only_if_exists=True) is None
        assert repr(stream) == f"<aio <Stream {name!r} of 2 bucket(s)>>"


async def test_a_sink_is_held_in_the_hand(broker: BrokerManager, name: str) -> None:
    async with connect(broker.root) as handle, Publisher(handle, name) as publisher:
        await publisher.publish_many(range(3))
        sink = await handle.sink(name, name, max_attempts=2)
        assert (sink.name, (await sink.stats()).settings.max_attempts) == (name, 2)
        assert name in await handle.sinks()
        await sink.pause()
        async with sink.consumer(idle_timeout=0.1) as consumer:
            assert [task.payload async for task in consumer] == []
        await sink.resume()
        await sink.seek(f"{name}/0/0")
        found = []
        async with sink.consumer(idle_timeout=0.3) as consumer:
            async for task in consumer:
                with task:
                    found.append(task.payload)
                    [held] = await sink.leases(stream=name)
                    assert [each.lease for each in await handle.who(name, limit=9)] == [held.lease]
                    assert await handle.who(consumer="nobody") == dq.Holdings((), 0)
        assert await sink.release(f"{name}/0/1") == 0
        assert found == [1, 2]
        await sink.add_stream(f"{name}-2")
        await sink.remove_stream(f"{name}-2", destroy=True)
        assert repr(sink).startswith("<aio <Sink")
        await sink.destroy()
        with pytest.raises(dq.UnknownSink):
            await sink.stats()


async def test_a_reader_gets_iterates_and_moves(broker: BrokerManager, name: str) -> None:
    async with Publisher(broker, name) as publisher:
        await publisher.publish_many(range(3_000))
        async with Reader(broker, name, start="oldest", follow=False) as reader:
            assert [record.payload for record in await reader.get(10)] == list(range(10))
            assert sum(run.count for run in await reader.lines(10)) == 10
            assert reader.position == f"{name}=20"
            assert [record.payload async for record in reader] == list(range(20, 3_000))
            await reader.seek(f"{name}/0/2997")
            assert [record.payload for record in await reader.get()] == [2_998, 2_999]
            await reader.reset()
            assert len(await reader.get(5_000)) == 3_000
            await reader.seek(datetime.now(UTC))
            assert await reader.get() == []
            waiting = asyncio.ensure_future(reader.get(timeout=None))
            await publisher.publish("new")
            assert [record.payload for record in await waiting] == ["new"]
            broker.stream(f"{name}-2")
            await reader.add_stream(f"{name}-2", start="oldest")
            assert reader.streams == (name, f"{name}-2")
            await reader.remove_stream(name)
            assert (reader.missed, reader.lost) == (0, 0)


async def test_a_reader_that_is_cancelled_has_read_nothing(broker: BrokerManager, name: str) -> None:
    seen: list[int] = []
    broker.stream(name)
    async with Publisher(broker, name) as publisher, Reader(broker, name) as reader:

        async def follow() -> None:
            async for record in reader:
                seen.append(record.payload)

        for round_ in range(20):
            following = asyncio.ensure_future(follow() if round_ % 2 else reader.get(timeout=None))
            for _ in range(round_ % 3):
                await asyncio.sleep(0.001)
            if not round_ % 5:
                await publisher.publish(round_)
            following.cancel()
            [result] = await asyncio.gather(following, return_exceptions=True)
            if isinstance(result, list):
                seen += [record.payload for record in result]
        seen += [record.payload for record in await reader.get(timeout=5)] if len(seen) < 4 else []
        assert seen == [0, 5, 10, 15]
        following = asyncio.ensure_future(follow())
        await asyncio.sleep(0.01)
        reader.stop()
        await following

"""`dq.aio.Listener`: what is broadcast is heard by `async for`, answered for, and not lost where a wait is cancelled."""

from __future__ import annotations

import asyncio

import pytest

import dq
from dq import BrokerManager
from dq.aio import Listener, connect


async def test_what_is_broadcast_is_heard_and_answered_for(broker: BrokerManager, name: str) -> None:
    async with connect(broker.root) as handle, handle.listen(name, topic="eu") as listener:

        async def hear() -> list[int]:
            heard = []
            async for signal in listener:
                heard.append(signal.payload)
                if signal.payload == 2:
                    await listener.fail("not this one")
                if signal.payload == 3:
                    listener.stop()
            return heard

        hearing = asyncio.ensure_future(hear())
        assert (await handle.broadcast(name, 1, topic="eu")).taken == 1
        with pytest.raises(dq.BroadcastFailed, match="not this one"):
            await handle.broadcast(name, 2, topic="eu")
        assert (await handle.broadcast(name, 9, topic="us")).taken == 0
        await handle.broadcast(name, 3, topic="eu", mode="forget")
        assert await hearing == [1, 2, 3]


async def test_a_cancelled_wait_loses_no_signal(broker: BrokerManager, name: str) -> None:
    heard = []
    async with Listener(broker, name) as listener:
        for round_ in range(12):
            hearing = asyncio.ensure_future(listener.get(timeout=5))
            for _ in range(round_ % 4):
                await asyncio.sleep(0.0005)
            await asyncio.to_thread(broker.broadcast, name, round_, mode="forget")
            hearing.cancel()
            [signal] = await asyncio.gather(hearing, return_exceptions=True)
            heard += [signal.payload] if isinstance(signal, dq.Signal) else []
        while len(heard) < 12:
            signal = await listener.get(timeout=5)
            assert signal is not None
            heard.append(signal.payload)
    assert heard == list(range(12))

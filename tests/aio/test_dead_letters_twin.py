"""`dq.aio.DeadLetters`: the twin of `broker.dlq(stream)`."""

from __future__ import annotations

import dq.aio


async def test_the_twin_lists_shows_replays_and_discards(broker, name) -> None:
    broker.publish(name, "bad")
    with dq.Consumer(broker, name, sink=name, idle_timeout=0.4) as consumer:
        for task in consumer:
            task.dead_letter("no use")
    async with dq.aio.connect(broker.root) as other:
        letters = other.dlq(name)
        [letter] = await letters.list()
        assert await letters.show(letter.id) == letter
        assert await letters.count(reason="no use") == 1
        assert await letters.replay(letter.id) == 1
        assert await letters.discard() == 0

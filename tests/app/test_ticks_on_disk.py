"""Recurring work over dq's own broker: what is found in its streams, and workers that share the ticks."""

from __future__ import annotations

from dq import BrokerManager, Reader
from dq.app.dq_ticks import FileTicks
from dq.app.ticks import TICK_HEADER
from stage import Child, until


def test_a_tick_that_was_begun_is_looked_for_in_its_stream(broker: BrokerManager, name: str) -> None:
    ticks = FileTicks(broker)
    with ticks.hold(name) as held:
        assert held.end_of(name) == "", "there is no stream yet"
        assert not held.stands(name, "a")
    broker.publish(name, 1, headers={TICK_HEADER: "old"})
    with ticks.hold(name) as held:
        held.state.begun, held.state.place = 1.0, held.end_of(name)
        held.keep()
    broker.publish(name, 1, headers={TICK_HEADER: "a"})
    with ticks.hold(name) as held:  # as the next worker finds it
        assert held.state.begun == 1.0
        assert held.stands(name, "a")
        assert not held.stands(name, "b")
        assert not held.stands(name, "old"), "it stood there before"


WORKER = """
from dq import App
app = App(sys.argv[1], sink=sys.argv[2])
app.every("* * * * * *", stream=sys.argv[2])
say("runs")
app.run()
"""


def test_workers_share_the_ticks_and_one_that_is_killed_changes_nothing(broker: BrokerManager, name: str) -> None:
    broker.stream(name)
    with Child(WORKER, broker.root, name) as first, Child(WORKER, broker.root, name) as second:
        assert (first.hear(), second.hear()) == ("runs", "runs")
        with Reader(broker, name, start="oldest") as reader:
            seen = []

            def ticks(count: int) -> bool:
                seen.extend(record.headers[TICK_HEADER] for record in reader.get(timeout=0.1))
                return len(seen) >= count

            until(lambda: ticks(1))
            first.kill()
            until(lambda: ticks(3))
    assert len(set(seen)) == len(seen)

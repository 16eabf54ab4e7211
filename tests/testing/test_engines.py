"""One conformance over both engines: dq's own broker, and the one in memory that tests of apps use."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from engine_conformance import SETTINGS, EngineConformance

from dq import BrokerManager, InvalidSetting, SettingsMismatch
from dq.app import Engine
from dq.app.dq_engine import DqEngine
from dq.testing import HandClock, MemoryEngine


class TestBroker(EngineConformance):
    """H11: dq's own."""

    @pytest.fixture
    def engine(self, broker: BrokerManager) -> Iterator[Engine]:
        engine = DqEngine(broker)
        yield engine
        engine.close()

    @pytest.fixture
    def wait(self) -> Callable[[float], None]:
        return time.sleep


class TestMemory(EngineConformance):
    """H11: the one of `dq.testing`; its time is moved by hand."""

    @pytest.fixture
    def engine(self) -> MemoryEngine:
        return MemoryEngine()

    @pytest.fixture
    def wait(self, engine: MemoryEngine) -> Callable[[float], None]:
        assert isinstance(engine.clock, HandClock)
        return engine.clock.advance


def test_priorities_of_the_engine_in_memory() -> None:
    engine = MemoryEngine()
    with pytest.raises(InvalidSetting, match="priorities=10"):
        engine.publish("mail", 1, priority=1)
    engine.stream("post", priorities=10)
    for number, priority in enumerate([0, 9, 5, 9]):
        engine.publish("post", number, priority=priority)
    own = engine.subscribe("s", ["post"], topic=None, pattern=None, settings=SETTINGS)
    assert [task.payload for task in own.fetch(10, 0.0)] == [1, 3, 2, 0]
    with pytest.raises(SettingsMismatch):
        engine.stream("post", priorities=2)
    with pytest.raises(InvalidSetting):
        engine.publish("post", 1, priority=10)


@pytest.mark.parametrize("wish", [{"delay": -1}, {"expires": "soon"}, {"once": ""}, {"colour": 1}])
def test_wishes_that_cannot_be_are_refused(wish) -> None:
    with pytest.raises(InvalidSetting):
        MemoryEngine().publish("mail", 1, **wish)


def test_a_key_counts_for_its_window() -> None:
    engine = MemoryEngine()
    first = engine.publish("mail", 1, once="k")
    engine.clock.advance(299)
    assert engine.publish("mail", 1, once="k") == first
    engine.clock.advance(2)
    assert engine.publish("mail", 1, once="k") != first

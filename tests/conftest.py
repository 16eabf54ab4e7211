"""Options and fixtures of the whole suite."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import hypothesis
import pytest

from dq import BrokerManager
from dq.testing import dq_broker

__all__ = ["dq_broker"]
_NUMBERS = itertools.count()

# An example may take long on a busy machine, and that says nothing of what is tested.
hypothesis.settings.register_profile("dq", deadline=None)
hypothesis.settings.load_profile("dq")


def pytest_addoption(parser) -> None:
    group = parser.getgroup("dq")
    group.addoption("--crash-cycles", type=int, default=50, help="kills of the crash test (default 50)")
    group.addoption("--connections", type=int, default=10_000, help="publishers of the crowd (default 10,000)")
    group.addoption("--crash-seed", type=int, default=None, help="seed of the crash test (default: a new one, printed)")
    group.addoption("--mutants", action="store_true", help="tests/mutants: run the tests on broken copies of dq")
    group.addoption("--every-fault", action="store_true", help="tests/faults: a fault at every place, not at a sample")
    group.addoption("--simulations", type=int, default=150, help="tests/simulation: worlds that are played (default 150)")
    group.addoption("--simulation-seed", type=int, default=0, help="tests/simulation: seed of the first one (default 0)")
    group.addoption("--machine-examples", type=int, default=200, help="tests/simulation: examples of the sink on its disk")
    group.addoption("--damages", type=int, default=2_000, help="damages done to a log at random (default 2000)")
    group.addoption("--damage-seed", type=int, default=None, help="seed of the damages (default: a new one, printed)")
    group.addoption("--kill-rounds", type=int, default=3, help="rounds of killed crowds and of killed managers (default 3)")
    group.addoption("--race-rounds", type=int, default=1, help="rounds of 20 managers that race for a directory (default 1)")
    group.addoption("--stop-seconds", type=float, default=1.0, help="how long each process is stopped under load (default 1)")


@pytest.fixture(scope="module")
def broker(tmp_path_factory) -> Iterator[BrokerManager]:
    """A broker that the tests of a module share, as long as they leave its processes alone."""
    with BrokerManager(tmp_path_factory.mktemp("dq") / "queue_data") as shared:
        yield shared


@pytest.fixture
def name() -> str:
    """A name for a stream or a sink that no other test uses."""
    return f"s{next(_NUMBERS)}"

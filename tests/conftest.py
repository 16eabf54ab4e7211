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
    group.addoption("--crash-seed", type=int, default=None, help="seed of the crash test (default: a new one, printed)")


@pytest.fixture(scope="module")
def broker(tmp_path_factory) -> Iterator[BrokerManager]:
    """A broker that the tests of a module share, as long as they leave its processes alone."""
    with BrokerManager(tmp_path_factory.mktemp("dq") / "queue_data") as shared:
        yield shared


@pytest.fixture
def name() -> str:
    """A name for a stream or a sink that no other test uses."""
    return f"s{next(_NUMBERS)}"

"""The neighbours of whoever misbehaves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from raw_client import Neighbours, unharmed


@pytest.fixture(scope="module")
def neighbours(broker) -> Iterator[Neighbours]:
    """On the broker that the tests of a module share."""
    both = Neighbours(broker)
    yield both
    both.close()


@pytest.fixture
def others_unharmed(neighbours) -> Iterator[None]:
    """Before and after the test the same processes serve the same neighbours."""
    with unharmed(neighbours):
        yield

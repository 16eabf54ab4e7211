"""The fixtures of the pytest plugin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from dq.app.application import App
from dq.client.manager import BrokerManager
from dq.testing.app_tester import AppTester


@pytest.fixture
def dq_broker(tmp_path: Path) -> Iterator[BrokerManager]:
    """A real broker on a data directory of this test alone; stopped at its end."""
    with BrokerManager(tmp_path / "queue_data") as broker:
        yield broker


@pytest.fixture
def dq_app() -> Iterator[Callable[..., AppTester]]:
    """Puts an app into the hand of the test: `dq_app(app)` is an `AppTester`, which ends with the test."""
    with ExitStack() as stack:

        def tester(app: App, **wishes: Any) -> AppTester:
            return stack.enter_context(AppTester(app, **wishes))

        yield tester

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What runs other tests on broken copies takes minutes, and is asked for by `--mutants`."""
    if not config.getoption("--mutants"):
        slow = [item for item in items if item.get_closest_marker("mutants")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]

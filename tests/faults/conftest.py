from __future__ import annotations

import pytest

pytest.register_assert_rewrite("two_brokers", "play", "traced_run")


@pytest.fixture
def every_fault(request: pytest.FixtureRequest) -> bool:
    """Whether every place is to fail, which takes long."""
    return bool(request.config.getoption("--every-fault"))

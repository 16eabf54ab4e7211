"""The rigs of the log's tests serve here too."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

LOG_TESTS = str(Path(__file__).parents[1] / "log")
if LOG_TESTS not in sys.path:
    sys.path.append(LOG_TESTS)

from log_rig import Rig  # noqa: E402


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """An empty log on the real disk."""
    return Rig(tmp_path)


@pytest.fixture
def three(rig: Rig) -> Rig:
    """A log of three segments on the real disk, 60 records in batches of two."""
    log = rig.open(segment_bytes=2600)
    rig.fill(log, 30)
    log.close()
    assert len(rig.segments()) == 3
    return rig

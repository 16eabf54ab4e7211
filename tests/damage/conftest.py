"""The rigs of the log's tests serve here too."""

from __future__ import annotations

from pathlib import Path

import pytest
from log_rig import Rig, three_segments


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    """An empty log on the real disk."""
    return Rig(tmp_path)


@pytest.fixture
def three(rig: Rig) -> Rig:
    """A log of three segments on the real disk."""
    return three_segments(rig)

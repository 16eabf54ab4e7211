from __future__ import annotations

import sys
from pathlib import Path

import pytest

# The disk in memory and its faults are shared with the tests beside these.
sys.path[:0] = [str(Path(__file__).parents[1] / part) for part in ("log", "faults")]
pytest.register_assert_rewrite(
    "sim_wires", "sim_life", "sim_manager", "sim_clients", "sim_consumer", "sim_checker", "sim_world"
)

from __future__ import annotations

import pytest

pytest.register_assert_rewrite(
    "sim_wires",
    "sim_life",
    "sim_manager",
    "sim_clients",
    "sim_consumer",
    "sim_checker",
    "sim_delays",
    "sim_once",
    "sim_changes",
    "sim_reader",
    "sim_world",
)

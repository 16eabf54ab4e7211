"""The benchmark at a size at which no figure means anything: every figure runs, is written, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import orjson
import pytest

RUN = Path(__file__).parents[2] / "benchmarks" / "run.py"
GROUPS = [
    ["end_to_end", "submit", "publish_one"],
    ["threads64", "processes64", "latency"],
    ["backlog_memory", "backlog_drain", "start_empty"],
    ["start", "delayed"],
    ["read_lines", "read_records", "seek_time"],
    ["buckets4", "streams64", "many_streams"],
    ["consumers", "bystanders"],
    ["handlers_sync", "handlers_async"],
    ["handlers_beside"],
    ["embedded_batches", "embedded_one", "embedded_mpmc", "embedded_large", "embedded_memory", "embedded_standard"],
]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(RUN), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=115, check=False)


@pytest.mark.parametrize("names", GROUPS, ids="-".join)
def test_every_figure_is_measured_and_written(names: list[str], tmp_path: Path) -> None:
    needed = {"embedded_batches": "rocksq", "handlers_beside": "huey"}.get(names[0])
    if needed is not None and find_spec(needed) is None and os.environ.get("CI") != "true":
        pytest.skip(f"these are measured beside {needed}, which is not installed: uv sync --group bench")
    data, written = tmp_path / "data", tmp_path / "figures.json"
    only = [part for name in names for part in ("--only", name)]
    ended = run("--runs", "1", "--scale", "0.0005", "--data", str(data), "--json", str(written), *only)
    assert ended.returncode == 0, ended.stderr
    found = orjson.loads(written.read_bytes())
    assert found["failures"] == {}
    assert {figure["name"] for figure in found["figures"]} == set(names)
    for figure in found["figures"]:
        assert figure["measured"] > 0
        assert len(figure["runs"]) == 1
        assert (figure["ratio"] is None) == (figure["reference"] == "")
        assert figure["name"] in ended.stdout
    assert found["machine"]["cores"] > 0
    assert not data.exists()


def test_no_figure_is_left_out_here() -> None:
    offered = re.search(r"--only \{([^}]*)\}", run("--help").stdout)
    assert offered is not None
    assert {name.strip() for name in offered[1].split(",")} == {name for group in GROUPS for name in group}


def test_a_figure_that_does_not_exist_is_refused() -> None:
    ended = run("--only", "everything")
    assert ended.returncode == 2
    assert "end_to_end" in ended.stderr

"""The benchmark itself, at a size at which no figure means anything: every figure runs, is written, and leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson

RUN = Path(__file__).parents[2] / "benchmarks" / "run.py"
NAMES = {
    "end_to_end", "submit", "publish_one", "threads64", "processes64",
    "latency", "backlog_memory", "backlog_drain", "start", "start_empty",
}  # fmt: skip


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(RUN), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)


def test_every_figure_is_measured_and_written(tmp_path: Path) -> None:
    data, written = tmp_path / "data", tmp_path / "figures.json"
    ended = run("--runs", "1", "--scale", "0.0005", "--data", str(data), "--json", str(written))
    assert ended.returncode == 0, ended.stderr
    found = orjson.loads(written.read_bytes())
    assert found["failures"] == {}
    assert {figure["name"] for figure in found["figures"]} == NAMES
    for figure in found["figures"]:
        assert figure["measured"] > 0
        assert len(figure["runs"]) == 1
        assert (figure["ratio"] is None) == (figure["reference"] == "")
        assert figure["name"] in ended.stdout
    assert found["machine"]["cores"] > 0
    assert not data.exists()


def test_a_figure_that_does_not_exist_is_refused() -> None:
    ended = run("--only", "everything")
    assert ended.returncode == 2
    assert "end_to_end" in ended.stderr

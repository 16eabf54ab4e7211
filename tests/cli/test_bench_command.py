"""`dq bench` at a size at which no figure means anything: all is measured and printed, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from dq.bench.floor import Floor
from dq.bench.measure import Figure
from dq.bench.roles import line_of
from stage import marked, until

SMALL = ("--records", "500", "--runs", "1", "--consumers", "1")
DQ = [sys.executable, "-c", "from dq.main import command; raise SystemExit(command())"]


def test_figures_stand_beside_the_floor_and_nothing_is_left(dq, tmp_path) -> None:
    ended = dq("bench", *SMALL, "--size", "300", "--data", tmp_path / "scratch", "--json")
    assert (ended.code, ended.err) == (0, "")
    found = json.loads(ended.out)
    assert (found["durability"], found["size"], found["machine"]["cores"] > 0) == ("sync", 300, True)
    assert [each["name"] for each in found["figures"]] == ["publish()", "submit()", "publish_many()", "end to end"]
    for figure in found["figures"]:
        assert 0 < figure["min"] <= figure["median"] <= figure["max"]
        assert figure["ratio"] == figure["median"] / figure["floor"]
    for latency in found["latencies"]:
        assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"] < 10
    assert list(tmp_path.iterdir()) == []


def test_a_directory_with_something_in_it_is_left_alone(dq, tmp_path) -> None:
    (tmp_path / "mine").touch()
    ended = dq("bench", "--data", tmp_path)
    assert (ended.code, "not an empty directory" in ended.err) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_interrupted_it_leaves_no_file_and_no_process(tmp_path) -> None:
    mark = f"bench-{os.getpid()}"
    env = {**os.environ, "DQ_TEST_MARK": mark, "TMPDIR": str(tmp_path)}
    command = [*DQ, "bench", "--records", "10000000"]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as bench:
        try:
            until(lambda: list(tmp_path.glob("*/queue_data/streams/bench-*")), what="it has begun")
        finally:
            bench.send_signal(signal.SIGINT)
        _, errors = bench.communicate(timeout=30)
    assert bench.returncode == 130
    # On a busy machine its broker may say before that it leaves.
    assert errors.endswith("dq: stopped by Ctrl-C\n")
    assert "Traceback" not in errors
    # Where the path of a socket is too long, it lies in a directory of the user's own; that of a killed manager stays.
    assert [path for path in tmp_path.iterdir() if path.name != f"dq-{os.getuid()}"] == []
    until(lambda: not marked(f"DQ_TEST_MARK={mark}"), what="all its processes are gone")


def test_a_line_has_the_size_that_was_asked_for(tmp_path) -> None:
    assert [len(line_of(size)) for size in (80, 210, 5_000)] == [80, 210, 5_000]


def test_the_floor_writes_what_it_says(tmp_path: Path) -> None:
    floor = Floor(tmp_path, b"line\n")
    assert floor.rate(25, batch=10) > 0
    assert len(floor.sync_seconds(3)) == 3
    assert (tmp_path / "bare.log").read_bytes() == b"line\n" * 23
    floor.close()
    assert list(tmp_path.iterdir()) == []


def test_a_figure_is_the_median_of_its_runs() -> None:
    told = Figure("x", [3.0, 1.0, 2.0], [4.0, 4.0, 1.0]).told()
    assert (told["median"], told["min"], told["max"], told["floor"], told["ratio"]) == (2.0, 1.0, 3.0, 4.0, 0.5)

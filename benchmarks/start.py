"""Time to ready: of an empty directory, of 1 GiB of log after a clean stop, and of logs that must be checked after a kill.

A kill is `kill -9` of the manager and both brokers at once. Megabytes checked a second: all log files of the directory, by
the time to ready less that of an empty directory, which is measured beside it. The whole time to ready is noted.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

from backlog import fill
from measure import RECORD_BYTES, Bench, Row, broker_pids, kill, running, say

GIB = 1 << 30
HEADER_BYTES = 200  # of a batch, about
LOGS = ((500, GIB, 300), (10, 200_000_000, 300), (1, 100_000_000, 100))  # records a batch, bytes, MB/s that are wanted


def _ready(path: Path, *, then_kill: bool) -> float:
    """Seconds until the broker of this directory is ready; it is stopped well, or killed, afterwards."""
    began = time.perf_counter()
    with running(path) as broker:
        took = time.perf_counter() - began
        if then_kill:
            kill(broker_pids(broker))
    return took


def _log_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in (path / "streams").rglob("*.jsonl"))


def start_empty(bench: Bench) -> list[Row]:
    """An empty directory."""
    took = []
    for _ in range(bench.runs):
        with bench.directory("empty") as path:
            took.append(_ready(path, then_kill=False))
    say(f"start_empty: {min(took):.2f} to {max(took):.2f} s")
    return [Row("start_empty", "time to ready, empty directory", "s", took, "<=", 0.5)]


def start(bench: Bench) -> list[Row]:
    """Logs of batches of 500, 10 and 1."""
    rows: list[Row] = []
    for batch, size, target in LOGS:
        with bench.directory("log") as path:
            with running(path) as broker:
                fill(path, "emails", bench.records(size // (RECORD_BYTES + HEADER_BYTES // batch)), batch)
                if rows:
                    kill(broker_pids(broker))
            megabytes = _log_bytes(path) / 1e6
            if not rows:
                clean = [_ready(path, then_kill=run == bench.runs) for run in range(1, bench.runs + 1)]
                rows.append(Row("start", f"time to ready, {megabytes:,.0f} MB, clean stop", "s", clean, "<=", 1.0))
                say(f"start, clean: {min(clean):.2f} to {max(clean):.2f} s")
            rows.append(_after_kill(bench, path, megabytes, batch, target))
    return rows


def _after_kill(bench: Bench, path: Path, megabytes: float, batch: int, target: float) -> Row:
    empty, full = [], []
    for _ in range(bench.runs):
        with bench.directory("empty") as nothing:
            empty.append(_ready(nothing, then_kill=True))
        full.append(_ready(path, then_kill=True))
    base, whole = median(empty), median(full)
    say(f"start, batches of {batch}, {megabytes:,.0f} MB: {min(full):.2f} to {max(full):.2f} s, empty {base:.2f} s")
    rates = [megabytes / max(seconds - base, 0.001) for seconds in full]
    notes = {"MB": megabytes, "seconds to ready": whole, "of an empty directory": base, "MB/s by all of it": megabytes / whole}
    return Row("start", f"checked after a kill, batches of {batch}", "MB/s", rates, ">=", target, notes=notes)

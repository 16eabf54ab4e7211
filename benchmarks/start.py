"""Time to ready: of an empty directory, of 1 GiB of log after a clean stop, and of logs that must be checked after a kill.

A kill is `kill -9` of the manager and both brokers at once. The megabytes a second are those of all log files of the
directory by the whole time to ready, the start of three interpreters included (what it is for an empty directory is noted), since that is
what somebody waits for.
"""

from __future__ import annotations

import time
from pathlib import Path

from backlog import fill
from dq import BrokerManager
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
            _kill(broker)
    return took


def _kill(broker: BrokerManager) -> None:
    kill(broker_pids(broker))


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
    rows = []
    for batch, size, target in LOGS:
        with bench.directory("log") as path:
            with running(path):
                fill(path, "emails", bench.records(size // (RECORD_BYTES + HEADER_BYTES // batch)), batch)
            megabytes = _log_bytes(path) / 1e6
            if batch == LOGS[0][0]:
                clean = [_ready(path, then_kill=False) for _ in range(bench.runs)]
                rows.append(Row("start", f"time to ready, {megabytes:,.0f} MB, clean stop", "s", clean, "<=", 1.0))
                say(f"start, clean: {min(clean):.2f} to {max(clean):.2f} s")
            _ready(path, then_kill=True)
            took = [_ready(path, then_kill=True) for _ in range(bench.runs)]
        rates = [megabytes / seconds for seconds in took]
        notes = {"MB": megabytes, "seconds": sorted(took)[len(took) // 2]}
        rows.append(Row("start", f"after a kill, batches of {batch}", "MB/s", rates, ">=", target, notes=notes))
        say(f"start, batches of {batch}, {megabytes:,.0f} MB: {min(took):.2f} to {max(took):.2f} s")
    return rows

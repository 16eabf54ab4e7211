"""How fast dq is, beside what the machine can do: `uv run python benchmarks/run.py`.

A figure is a median of at least 5 runs, and where it has a reference, the two alternate: dq, reference, dq, reference.
Every record is the same 210-byte line, every receipt is given after `fdatasync`, everything goes through the public API. (The
`embedded_…` figures and `handlers_beside` need `uv sync --group bench`; the former have items of random bytes, and no flush on
either side.)

    uv run python benchmarks/run.py                       the whole table, about 8 minutes
    uv run python benchmarks/run.py --only end_to_end     one figure; may be given again
    uv run python benchmarks/run.py --scale 0.1 --runs 1  a short look
    uv run python benchmarks/run.py --json FILE           what was measured, each run of it; `-` is standard output
    uv run python benchmarks/run.py --profile DIR         where the time of `end_to_end` goes, instead of the table

========================  ================================================================================================
end_to_end, submit        records a second from one publisher through the broker to two consumers, beside the floor (floor.py)
publish_one               `publish()` one at a time, beside a bare loop of write + `fdatasync`
threads64, processes64    64 that each wait for every receipt, beside one
latency                   from `publish()` called to user code running, at 1,000 a second
backlog_memory, _drain    what 5 million waiting records cost in memory and in speed
delayed                   a million delayed records: memory of the consumer broker, and how late others come
read_lines, read_records  a reader over 5 million records, as lines, and decoded beside bare `orjson.loads`
seek_time                 to the first record of a time in 5 million
start, start_empty        time to ready, and megabytes of log checked a second after a kill
buckets4, streams64       four buckets beside one, 64 streams in turn beside one, end to end
many_streams              1,000 streams of four buckets: time to ready, and what idle brokers use
consumers                 1 to 64 consumers of one sink: their total, and the share of each
bystanders                a publisher and two consumers beside others that are slow, stopped or far behind
handlers_sync, _async     empty handlers of an app in one process, every settle on disk
handlers_beside           the same beside huey, persist-queue and litequeue, with and without a flush of theirs
embedded_batches, _one    `dq.embedded` beside rocksq, same items, no flush: by 100 and 500, one at a time
embedded_mpmc, _large     the same of `MpmcQueue`, and of items of 1 and 64 KiB, these also beside a bare loop of writes
embedded_memory           with 5 million items waiting
embedded_standard         `dq.embedded.Queue` beside persist-queue
========================  ================================================================================================

The data lies in `--data` (default `queue_data/bench`, 3 GB at most) and is removed afterwards. It must be on a real
disk, and the machine must have nothing else to do: a busy neighbour changes every figure.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import orjson

import backlog
import delayed
import embedded
import fanout
import handlers
import latency
import profiling
import reading
import receipts
import report
import start
import streams
import throughput
from dq.bench.machine import is_memory, machine
from measure import Bench, Row, say

FIGURES: dict[str, Callable[[Bench], list[Row]]] = {
    "end_to_end": throughput.end_to_end,
    "submit": throughput.submit,
    "publish_one": receipts.publish_one,
    "threads64": receipts.threads64,
    "processes64": receipts.processes64,
    "latency": latency.latency,
    "backlog_memory": backlog.memory,
    "backlog_drain": backlog.drain,
    "delayed": delayed.delayed,
    "read_lines": reading.read_lines,
    "read_records": reading.read_records,
    "seek_time": reading.seek_time,
    "start": start.start,
    "start_empty": start.start_empty,
    "buckets4": streams.buckets4,
    "streams64": streams.streams64,
    "many_streams": streams.many_streams,
    "consumers": fanout.consumers,
    "bystanders": fanout.bystanders,
    "handlers_sync": handlers.handlers_sync,
    "handlers_async": handlers.handlers_async,
    "handlers_beside": handlers.handlers_beside,
    "embedded_batches": embedded.batches,
    "embedded_one": embedded.one,
    "embedded_mpmc": embedded.mpmc,
    "embedded_large": embedded.large,
    "embedded_memory": embedded.memory,
    "embedded_standard": embedded.standard,
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", action="append", choices=list(FIGURES), help="a figure; may be given again; default: all")
    parser.add_argument("--runs", type=int, default=5, help="alternating runs of each figure; default 5")
    parser.add_argument("--scale", type=float, default=1.0, help="shrinks the numbers of records; default 1")
    parser.add_argument("--json", metavar="FILE", help="writes what was measured; - is standard output, without the table")
    parser.add_argument("--data", type=Path, default=Path(__file__).parent.parent / "queue_data" / "bench", help="where")
    parser.add_argument("--profile", type=Path, metavar="DIR", help="profiles of end_to_end, instead of the table")
    given = parser.parse_args()
    if given.runs < 1 or given.scale <= 0:
        parser.error("--runs must be from 1, and --scale above 0")
    return given


def measure(bench: Bench, names: list[str]) -> tuple[list[Row], dict[str, str]]:
    """The rows, and what failed."""
    rows: list[Row] = []
    failures: dict[str, str] = {}
    for name in names:
        try:
            rows += FIGURES[name](bench)
        except Exception:
            failures[name] = traceback.format_exc()
            say(failures[name])
    return rows, failures


def main() -> int:
    given = arguments()
    bench = Bench(given.data.resolve(), given.runs, given.scale)
    about = {**machine(given.data), "durability": "sync: every receipt after fdatasync"}
    if is_memory(about["filesystem"]):
        say(f"warning: {given.data} is on {about['filesystem']}: a sync costs nothing there, no figure means anything")
    try:
        if given.profile is not None:
            profiling.profile(bench, given.profile)
            return 0
        rows, failures = measure(bench, given.only or list(FIGURES))
    finally:
        bench.remove()
    if given.json != "-":
        report.show(rows, failures, about, given.runs, given.scale)
    if given.json is not None:
        found = {"machine": about, "runs": given.runs, "scale": given.scale, "figures": [row.to_dict() for row in rows]}
        text = orjson.dumps({**found, "failures": failures}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        if given.json == "-":
            sys.stdout.buffer.write(text)
        else:
            Path(given.json).write_bytes(text)
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())

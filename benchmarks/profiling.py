"""Where the time of `end_to_end` goes: one run with every process under py-spy, or, where it is not installed, with publisher
and consumers under cProfile (which doubles their time: read the shares, not the rate).

Of every process the functions with the most time of their own are printed; the directory gets the whole profiles.
"""

from __future__ import annotations

import contextlib
import cProfile
import pstats
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from measure import Bench, Counters, Worker, workers
from throughput import CONSUMERS, SINK, STREAM, Flow, consume, publish

RECORDS, TOP = 5_000_000, 14


def profile(bench: Bench, into: Path) -> None:
    """One run; prints the shares."""
    into.mkdir(parents=True, exist_ok=True)
    spy = shutil.which("py-spy")
    counters = Counters(CONSUMERS)
    with bench.broker() as broker:
        into_or_none = None if spy else into
        publisher = Worker(_profiled, into_or_none, "publisher", publish, broker.root, STREAM, 500, "publish_many")
        consumers = [
            Worker(_profiled, into_or_none, f"consumer-{n + 1}", consume, broker.root, STREAM, SINK, counters.array, n)
            for n in range(CONSUMERS)
        ]
        warm, count = bench.records(50_000), bench.records(RECORDS if spy else RECORDS // 10)
        with workers(publisher, *consumers):
            running = Flow(broker, publisher, consumers, counters)
            running.send(0, warm)
            with spied(spy, running.pids, into):
                rate = running.send(warm, count)
    print(f"{count:,} records at {rate:,.0f}/s under {'py-spy' if spy else 'cProfile'}")
    for file in sorted(into.glob("*.raw" if spy else "*.pstats")):
        (_show_raw if spy else _show_pstats)(file)


def _profiled(control: Connection, into: Path | None, name: str, target: Callable[..., None], *args: Any) -> None:
    if into is None:
        target(control, *args)
        return
    with cProfile.Profile() as found:
        try:
            target(control, *args)
        except EOFError:
            pass
        finally:
            found.dump_stats(into / f"{name}.pstats")


@contextlib.contextmanager
def spied(spy: str | None, pids: dict[str, int], into: Path) -> Iterator[None]:
    """py-spy on each of these processes until the end of the block."""
    if spy is None:
        yield
        return
    how = ("--rate", "200", "--duration", "600", "--nonblocking", "--format", "raw")
    spies = []
    for name, pid in pids.items():
        output = str(into / f"{name.replace(' ', '-')}.raw")
        command = [spy, "record", "--pid", str(pid), *how, "--output", output]
        spies.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    try:
        yield
    finally:
        for process in spies:
            process.send_signal(2)  # it writes what it has
        for process in spies:
            process.wait(20)


def _show_raw(file: Path) -> None:
    """A raw profile: a stack a line, frames apart by semicolons, and how often it was seen."""
    own: Counter[str] = Counter()
    for line in file.read_text().splitlines():
        stack, _, times = line.rpartition(" ")
        own[stack.rpartition(";")[2]] += int(times)
    total = sum(own.values()) or 1
    print(f"\n{file.stem}: {total} samples")
    for frame, times in own.most_common(TOP):
        print(f"  {times / total:6.1%}  {frame}")


def _show_pstats(file: Path) -> None:
    print(f"\n{file.stem}")
    pstats.Stats(str(file)).sort_stats("tottime").print_stats(TOP)

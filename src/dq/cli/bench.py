"""`dq bench`: how fast it is here, beside what the disk can do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import click

from dq.bench.machine import is_memory, machine
from dq.bench.measure import Measurement, Wish
from dq.bench.place import scratch
from dq.cli.exits import Exit
from dq.cli.options import DataDirectory, as_json, examples
from dq.cli.output import json_line, line, number, remark, table
from dq.cli.termination import tidied_up
from dq.model.histogram import SHARES

_DURABILITIES: Final = {
    "sync": "every receipt after fdatasync",
    "interval": "written, and flushed every second",
    "os": "written, and flushed when the system likes",
    "memory": "kept in memory",
}
_PROCESSES = click.IntRange(1, 64)


@click.command(
    epilog=examples("dq bench", "dq bench --size 4096 --publishers 4", "dq bench --durability os --json | jq .figures")
)
@click.option("--records", type=click.IntRange(100), default=100_000, show_default=True, metavar="N", help="Of each figure.")
@click.option(
    "--size", type=click.IntRange(80, 1 << 20), default=210, show_default=True, metavar="BYTES", help="Of a record in the log."
)
@click.option("--durability", type=click.Choice(list(_DURABILITIES)), default="sync", show_default=True, help="Of the streams.")
@click.option("--publishers", type=_PROCESSES, default=1, show_default=True, metavar="N", help="Processes that publish.")
@click.option("--consumers", type=_PROCESSES, default=2, show_default=True, metavar="N", help="Processes that consume.")
@click.option(
    "--runs", type=click.IntRange(1, 100), default=3, show_default=True, metavar="N", help="Of which the median counts."
)
@click.option(
    "--data", "root", type=DataDirectory(), help="An empty directory, on the disk that is meant (default: a new one)."
)
@as_json
def command(root: Path | None, as_json: bool, **wish: Any) -> int:
    """Measures records a second and latencies, with a broker, publishers and consumers of its own, in a directory of its own
    that is removed afterwards; it touches no other.

    Beside each figure stands the floor: the same bytes, appended and flushed to the same disk by a bare loop in the same run;
    for publish() one record a flush, for the others a MiB. With another durability than sync it does not flush either. The
    machine should have nothing else to do.
    """
    measurement = Measurement(Wish(**wish), _progress)
    with tidied_up(), scratch(root) as directory:
        about = machine(directory)
        if is_memory(about["filesystem"]) and wish["durability"] == "sync":
            remark(f"{directory} is on {about['filesystem']}, where a flush costs nothing: name one on a disk with --data")
        try:
            measurement.run(directory)
        finally:
            _progress("")
    (_print_json if as_json else _print)(measurement, about)
    return Exit.WELL


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{text:40}\r" if not text else f"\r{text:40}")
        sys.stderr.flush()


def _print_json(measurement: Measurement, about: dict[str, Any]) -> None:
    wish = measurement.wish
    named = {name: getattr(wish, name) for name in ("records", "size", "durability", "publishers", "consumers", "runs")}
    figures, latencies = [each.told() for each in measurement.figures], [each.told() for each in measurement.latencies]
    json_line({"machine": about, **named, "figures": figures, "latencies": latencies})


def _print(measurement: Measurement, about: dict[str, Any]) -> None:
    wish = measurement.wish
    line(
        f"{number(wish.records)} records of {number(wish.size)} bytes, publishers: {wish.publishers}, "
        f"consumers: {wish.consumers}; medians of {wish.runs} runs"
    )
    line(f"durability {wish.durability}: {_DURABILITIES[wish.durability]}")
    line(
        f"on {about['cpu']}, {about['cores']} cores, {about['system']}, {about['filesystem']}, {about['python']}, "
        f"load {about['load_before']:g} before"
    )
    line()
    numbers = ("median", "min", "max", "floor")
    rows = [each.told() for each in measurement.figures]
    table(
        ("records/s", *numbers, "ratio"),
        [(row["name"], *(f"{row[name]:,.0f}" for name in numbers), f"{row['ratio']:.2f}") for row in rows],
        right=(*numbers, "ratio"),
    )
    line("floor: the same bytes by a bare loop, a flush for one record or for 1 MiB of them: no process, pipe or JSON in it")
    line()
    table(
        ("milliseconds", *SHARES),
        [(each.name, *(f"{each.median(part) * 1e3:.3f}" for part in SHARES)) for each in measurement.latencies],
        right=tuple(SHARES),
    )

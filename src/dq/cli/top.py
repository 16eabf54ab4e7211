"""`dq top`: rates, depths and latencies, looked at again and again."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import click

from dq.cli.exits import Exit
from dq.cli.options import Span, as_json, data, examples
from dq.cli.output import json_line, line, number, one_line, table
from dq.cli.top_rates import View, view_of
from dq.cli.top_screen import Screen, brief, keys, quantiles, rate
from dq.client.broker import Broker

_INTERVAL_SECONDS_MIN = 0.1


@click.command(epilog=examples("dq top", "dq top --interval 5s", "dq top --count 1 --json | jq '.sinks[].waiting'"))
@data
@as_json
@click.option("-i", "--interval", type=Span(), default=1.0, metavar="TIME", help="Between two looks (default: 1s).")
@click.option("-n", "--count", type=click.IntRange(min=1), metavar="N", help="End after so many looks (default: go on).")
def command(root: Path, as_json: bool, interval: float, count: int | None) -> int:
    """Shows what goes in and out, what waits and for how long, who has it in hand, and how long things take.

    On a terminal it is one screen, and q ends it; in a pipe each look is printed, with --json as a line. The first look comes
    after one interval, since rates need two; latencies are those of the interval.
    """
    if interval < _INTERVAL_SECONDS_MIN:
        raise click.UsageError(f"--interval must be at least {_INTERVAL_SECONDS_MIN:g} s: each look asks the broker")
    with Broker(root) as broker:
        if as_json:
            for view in _views(broker, count, _sleeping(interval)):
                json_line(asdict(view))
                sys.stdout.flush()
        elif sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
            with keys() as pressed, Screen() as screen:
                for view in _views(broker, count, lambda: pressed(interval)):
                    screen.show(view)
        else:
            for view in _views(broker, count, _sleeping(interval)):
                _print(view)
                sys.stdout.flush()
    return Exit.WELL


def _sleeping(interval: float) -> Callable[[], bool]:
    def sleep() -> bool:
        time.sleep(interval)
        return False

    return sleep


def _views(broker: Broker, count: int | None, ended: Callable[[], bool]) -> Iterator[View]:
    """Looks, until `ended` says after its wait that nobody wants more, or there were so many."""
    before = broker.metrics()
    while not ended():
        now = broker.metrics()
        yield view_of(now, before)
        before = now
        if count is not None:
            count -= 1
            if not count:
                return


def _print(view: View) -> None:
    clock = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(view.at))
    line(
        f"{clock}  in {rate(view.rate_in)}/s  out {rate(view.rate_out)}/s  "
        f"commits {rate(view.commits)}/s  stored {quantiles(view.store)}  commit {quantiles(view.commit)}"
    )
    for name, why in view.closed.items():
        line(f"closed: {one_line(name)}: {one_line(why)}")
    numbers = ("in/s", "out/s", "waiting", "oldest", "hand", "delayed", "retry/s", "dead", "p50", "p95", "p99")
    table(
        ("sink", *numbers),
        [
            (
                row.name, rate(row.rate_in), rate(row.rate_out), number(row.waiting), brief(row.oldest), number(row.in_hand),
                number(row.delayed), rate(row.retries), number(row.dead),
                *((brief(row.hand[share]) for share in row.hand) if row.hand else ("-", "-", "-")),
            )
            for row in view.sinks
        ],
        right=numbers,
    )  # fmt: skip
    table(
        ("consumer", "sink", "pid", "out/s", "hand"),
        [(row.name, row.sink, row.pid, rate(row.rate), number(row.in_hand)) for row in view.consumers],
        right=("pid", "out/s", "hand"),
    )
    table(
        ("stream", "in/s", "records", "bytes", "delayed"),
        [(row.name, rate(row.rate_in), number(row.records), number(row.bytes), number(row.delayed)) for row in view.streams],
        right=("in/s", "records", "bytes", "delayed"),
    )
    line()

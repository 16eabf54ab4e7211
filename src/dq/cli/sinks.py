"""`dq sinks`: all sinks, a line each."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from dq.cli.exits import Exit
from dq.cli.options import as_json, data, examples
from dq.cli.output import json_line, number, remark, table
from dq.client.broker import Broker
from dq.client.stats import SinkStats

_NUMBERS = ("waiting", "in hand", "delayed", "settled", "retried", "dead", "consumers")


@click.command(epilog=examples("dq sinks", "dq sinks --json | jq 'select(.waiting > 1000) | .name'"))
@data
@as_json
def command(root: Path, as_json: bool) -> int:
    """Lists the sinks: what waits in each, what is in hand, and what became of the rest."""
    with Broker(root) as broker:
        status = broker.stats()["consumer_broker"]
    found = [SinkStats.of(each) for _, each in sorted(status["sinks"].items())]
    if as_json:
        for each in found:
            json_line({**asdict(each), "streams": each.streams})
        return Exit.WELL
    table(
        ("sink", "streams", *_NUMBERS, "state"),
        [
            (
                each.name, ",".join(each.streams), number(each.waiting), number(each.in_hand), number(each.delayed),
                number(each.settled), number(each.retried), number(each.dead_lettered), len(each.consumers),
                "paused" if each.paused else "open",
            )
            for each in found
        ],
        right=_NUMBERS,
    )  # fmt: skip
    for name, why in status["closed"].items():
        remark(f"sink {name} is closed: {why}")
    return Exit.WELL

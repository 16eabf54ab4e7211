"""`dq metrics`: every counter and latency, once."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from dq.cli.exits import Exit
from dq.cli.exposition import text_of
from dq.cli.options import as_json, data, examples
from dq.cli.output import json_line
from dq.client.broker import Broker
from dq.client.metrics import Snapshot
from dq.model.histogram import Histogram


@click.command(epilog=examples("dq metrics", "dq metrics | grep waiting", "dq metrics --json | jq .sinks.mails.waiting"))
@data
@as_json
def command(root: Path, as_json: bool) -> int:
    """Prints every counter and latency of the broker, in the text format of Prometheus.

    `dq serve --metrics-port 9464` answers the same over HTTP. docs/metrics.md says what each is.
    """
    with Broker(root) as broker:
        snapshot = broker.metrics()
    if as_json:
        json_line(told(snapshot))
    else:
        sys.stdout.write(text_of(snapshot))
    return Exit.WELL


def told(snapshot: Snapshot) -> dict[str, Any]:
    """As JSON takes it: a histogram by its count, its sum in seconds, and its quantiles."""
    found = asdict(snapshot, dict_factory=_dict_of)
    for name, sink in snapshot.sinks.items():
        found["sinks"][name]["waiting_by_priority"] = sink.waiting_by_priority
    return found


def _dict_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: _plain(value) for name, value in pairs}


def _plain(value: Any) -> Any:
    if isinstance(value, Histogram):
        return {"count": value.count, "sum": value.total, **value.quantiles()}
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return value

"""`dq status`: how the broker of a data directory stands, on one screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dq.cli.exits import Exit
from dq.cli.options import as_json, data, examples
from dq.cli.output import json_line, line, number, one_line, pairs
from dq.client.broker import Broker
from dq.errors import BrokerLost, BrokerNotRunning


@click.command(epilog=examples("dq status", "dq status --json | jq .consumer_broker.sinks"))
@data
@as_json
@click.option("--or-help", is_flag=True, hidden=True)
@click.pass_context
def command(context: click.Context, root: Path, as_json: bool, or_help: bool) -> int:
    """Says whether a broker runs, and what there is.

    It exits with 69 if none runs.
    """
    if or_help:
        _first_screen(context, root)
        return Exit.WELL
    with Broker(root) as broker:
        status = broker.stats()
    if as_json:
        json_line(status)
    else:
        _show(status)
    return Exit.WELL


def _first_screen(context: click.Context, root: Path) -> None:
    """What the bare command shows: the status in a line or a few, and the commands."""
    try:
        with Broker(root) as broker:
            _show(broker.stats())
    except (BrokerNotRunning, BrokerLost):
        line(f"no broker runs for {one_line(root)}: `dq serve` starts one")
    line()
    parent = context.parent
    if parent is not None:
        line(parent.get_help())


def _show(status: dict[str, Any]) -> None:
    published, consumed = status["publisher_broker"], status["consumer_broker"]
    streams, sinks = published.get("streams", {}), consumed.get("sinks", {})
    closed = {**published.get("closed", {}), **consumed.get("closed", {})}
    pairs(
        {
            "data": status["root"],
            "broker": f"runs, pid {status['pid']}; publisher broker {_told(published)}, consumer broker {_told(consumed)}",
            "streams": f"{len(streams)}, with {number(sum(each['records'] for each in streams.values()))} records",
            "sinks": f"{len(sinks)}, with {number(_sum(sinks, 'waiting'))} records waiting and "
            f"{number(_sum(sinks, 'in_hand'))} in hand",
            "clients": f"{len(published.get('publishers', {}))} publishers, {len(consumed.get('consumers', {}))} consumers, "
            f"{len(published.get('readers', {}))} readers",
        }
    )
    for name, why in closed.items():
        line(f"closed   {one_line(name)}: {one_line(why)}")
    for name, later in consumed.get("later", {}).items():
        if later["why"]:
            line(f"held up  {one_line(name)}: {number(later['waiting'])} delayed records wait: {one_line(later['why'])}")


def _told(broker: dict[str, Any]) -> str:
    restarts = broker.get("restarts", 0)
    if not broker.get("ready", False):
        return "is just starting"
    return f"pid {broker['pid']}" + (f" (replaced {restarts} times)" if restarts else "")


def _sum(sinks: dict[str, Any], what: str) -> int:
    return sum(shard[what] for sink in sinks.values() for shard in sink["shards"].values())

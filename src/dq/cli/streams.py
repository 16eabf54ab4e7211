"""`dq streams`: all streams, a line each."""

from __future__ import annotations

from pathlib import Path

import click

from dq.cli.exits import Exit
from dq.cli.options import as_json, data, examples
from dq.cli.output import json_line, number, remark, size, table
from dq.client.broker import Broker

_NUMBERS = ("records", "buckets", "disk", "segments", "publishers", "waiting")


@click.command(epilog=examples("dq streams", "dq streams --json | jq -r .name"))
@data
@as_json
def command(root: Path, as_json: bool) -> int:
    """Lists the streams: how many records each has, how much disk, and how many wait in the sinks over it."""
    with Broker(root) as broker:
        status = broker.stats()
    streams, closed = status["publisher_broker"]["streams"], status["publisher_broker"]["closed"]
    waiting: dict[str, int] = dict.fromkeys(streams, 0)
    for sink in status["consumer_broker"]["sinks"].values():
        for shard, figures in sink["shards"].items():
            stream = shard.rpartition("/")[0]
            waiting[stream] = waiting.get(stream, 0) + figures["waiting"]
    publishers = [each["stream"] for each in status["publisher_broker"]["publishers"].values()]
    if as_json:
        for name, each in sorted(streams.items()):
            json_line({"name": name, "waiting": waiting[name], "publishers": publishers.count(name), **each})
        return Exit.WELL
    table(
        ("stream", *_NUMBERS, "durability", "retention"),
        [
            (
                name, number(each["records"]), each["settings"]["buckets"], size(each["bytes"]), each["segments"],
                publishers.count(name), number(waiting[name]), each["settings"]["durability"], each["settings"]["retention"],
            )
            for name, each in sorted(streams.items())
        ],
        right=_NUMBERS,
    )  # fmt: skip
    for name, why in closed.items():
        remark(f"stream {name} is closed: {why}")
    return Exit.WELL

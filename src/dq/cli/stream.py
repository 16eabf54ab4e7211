"""`dq stream`: one stream: what it is, made, trimmed, destroyed."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import click

from dq.cli.exits import Exit
from dq.cli.named import stream_of
from dq.cli.options import Span, as_json, confirmed, data, examples, if_exists, place_of
from dq.cli.output import json_line, line, number, outcome, pairs, size, table
from dq.client.broker import Broker
from dq.client.stream import StreamStats
from dq.model.names import check_name
from dq.model.settings import StreamSettings


@click.group(
    epilog=examples(
        "dq stream show orders", "dq stream create orders --set buckets=4", "dq stream trim orders --max-records 1000"
    )
)
def command() -> None:
    """Shows, makes, trims and destroys a stream."""


@command.command(epilog=examples("dq stream show orders", "dq stream show orders --json | jq .settings"))
@click.argument("name")
@data
@as_json
def show(name: str, root: Path, as_json: bool) -> int:
    """Shows a stream: its settings, its buckets, and what keeps its oldest segments on disk."""
    with Broker(root) as broker:
        stats = stream_of(broker, name).stats()
    if as_json:
        json_line(asdict(stats))
    else:
        _show(stats)
    return Exit.WELL


def _show(stats: StreamStats) -> None:
    default, settings = StreamSettings().to_dict(), stats.settings.to_dict()
    pairs(
        {
            "stream": stats.name,
            "records": number(stats.records),
            "disk": f"{size(stats.bytes)} in {stats.segments} segments",
            "publishers": stats.publishers,
            "trimmed": number(stats.trimmed),
            "removed": number(stats.removed),
            "settings": ", ".join(f"{key}={value}" for key, value in settings.items() if value != default[key])
            or "the defaults",
        }
    )
    line()
    pinned = stats.pinned or (None,) * len(stats.ends)
    table(
        ("bucket", "first", "end", "pinned by", "record", "state", "consumer"),
        [
            (bucket, first, end, *((pin.sink, pin.record, pin.state, pin.consumer) if pin else ("", "", "", "")))
            for bucket, (first, end, pin) in enumerate(zip(stats.firsts, stats.ends, pinned, strict=True))
        ],
        right=("bucket", "first", "end"),
    )


@command.command(epilog=examples("dq stream create orders --set buckets=4 --set max_age=7d"))
@click.argument("name")
@click.option(
    "--set", "wishes", multiple=True, metavar="NAME=VALUE", help="A setting, as buckets=4 or durability=os; may be given again."
)
@data
@as_json
def create(name: str, wishes: tuple[str, ...], root: Path, as_json: bool) -> int:
    """Makes a stream; one that is there already must have these settings."""
    with Broker(root) as broker:
        stream = broker.stream(name, **dict(map(_setting, wishes)))
        outcome({"stream": name, "settings": stream.settings.to_dict()}, as_json=as_json)
    return Exit.WELL


def _setting(wish: str) -> tuple[str, Any]:
    """A setting and its value, by the type that the setting has."""
    name, equals, text = wish.partition("=")
    kinds = {each.name: str(each.type) for each in fields(StreamSettings)}
    if not equals or name not in kinds:
        raise click.UsageError(f"--set: {wish!r} is not NAME=VALUE; settings are {', '.join(sorted(kinds))}")
    kind = kinds[name]
    if kind.startswith("str"):
        return name, text
    if kind.startswith("bool"):
        if text not in ("true", "false"):
            raise click.UsageError(f"--set: {name} is true or false, not {text!r}")
        return name, text == "true"
    if kind.startswith("float"):
        return name, Span().convert(text, None, None)
    if not text.isascii() or not text.isdigit():
        raise click.UsageError(f"--set: {name} is a whole number, not {text!r}")
    return name, int(text)


@command.command(epilog=examples("dq stream trim orders --max-records 1000", "dq stream trim orders --before 7d"))
@click.argument("name")
@click.option("--before", metavar="WHERE", help="The first to stay: an id, a date, a time ago as 7d, or newest: all go.")
@click.option("--max-records", type=click.IntRange(0), metavar="COUNT", help="So many of the newest stay.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@data
@as_json
def trim(name: str, before: str | None, max_records: int | None, yes: bool, root: Path, as_json: bool) -> int:
    """Gives up a stream's oldest records, for good, whether they were read or not."""
    if (before is None) == (max_records is None):
        raise click.UsageError("choose one of --before and --max-records")
    with Broker(root) as broker:
        stream = stream_of(broker, name)
        confirmed(f"trim {name!r} for good", yes=yes)
        gone = stream.trim(None if before is None else place_of(before), max_records=max_records)
    outcome({"stream": name, "trimmed": gone}, f"{number(gone)} records trimmed", as_json=as_json)
    return Exit.WELL


@command.command(epilog=examples("dq stream remove orders orders/0/17"))
@click.argument("name")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@data
@as_json
def remove(name: str, ids: tuple[str, ...], root: Path, as_json: bool) -> int:
    """Takes single records out of a stream, for good; one that is delayed is cancelled by it."""
    with Broker(root) as broker:
        gone = stream_of(broker, name).remove(*ids)
    outcome({"stream": name, "removed": gone}, f"{number(gone)} records removed", as_json=as_json)
    return Exit.WELL if gone else Exit.UNKNOWN


@command.command(epilog=examples("dq stream destroy orders --yes", "dq stream destroy orders --if-exists --yes"))
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@if_exists
@data
@as_json
def destroy(name: str, yes: bool, if_exists: bool, root: Path, as_json: bool) -> int:
    """Deletes a stream and all its records, for good."""
    with Broker(root) as broker:
        if if_exists and check_name("stream", name) not in broker.streams():
            outcome({"stream": name, "destroyed": False}, as_json=as_json)
            return Exit.WELL
        stream = stream_of(broker, name)
        confirmed(f"destroy stream {name!r} and its {stream.stats().records:,} records", yes=yes)
        stream.destroy()
        outcome({"stream": name, "destroyed": True}, as_json=as_json)
    return Exit.WELL

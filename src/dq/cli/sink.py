"""`dq sink`: one sink: how it stands, moved, paused, destroyed."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from dq.cli.exits import Exit
from dq.cli.named import sink_of
from dq.cli.options import as_json, confirmed, data, examples, if_exists, place_of
from dq.cli.output import json_line, line, number, outcome, pairs, table
from dq.client.broker import Broker
from dq.client.stats import SinkStats
from dq.model.names import check_name
from dq.model.settings import SinkSettings

_COUNTED = (
    "waiting", "in_hand", "delayed", "settled", "dropped", "filtered", "removed", "missed", "redelivered", "retried", "lost",
    "dead_lettered", "cut_back", "late_acks", "ignored",
)  # fmt: skip


@click.group(epilog=examples("dq sink show mailers", "dq sink pause mailers", "dq sink seek mailers 2h"))
def command() -> None:
    """Shows, moves, pauses, resumes and destroys a sink."""


@command.command(epilog=examples("dq sink show mailers", "dq sink show mailers --json | jq .consumers"))
@click.argument("name")
@data
@as_json
def show(name: str, root: Path, as_json: bool) -> int:
    """Shows a sink: its settings and counters, how far it is in each bucket, and its consumers."""
    with Broker(root) as broker:
        stats = sink_of(broker, name).stats()
    if as_json:
        json_line({**asdict(stats), "streams": stats.streams})
    else:
        _show(stats)
    return Exit.WELL


def _show(stats: SinkStats) -> None:
    default, settings = SinkSettings().to_dict(), stats.settings.to_dict()
    changed = ", ".join(f"{key}={value}" for key, value in settings.items() if value != default[key])
    pairs(
        {
            "sink": stats.name,
            "streams": ", ".join(stats.streams),
            "state": "paused" if stats.paused else "open",
            "settings": changed or "the defaults",
        }
    )
    pairs({name.replace("_", " "): number(getattr(stats, name)) for name in _COUNTED if getattr(stats, name)})
    line()
    table(
        ("bucket", "floor", "next", "end", "waiting", "in hand", "delayed"),
        [(name, s.floor, s.next, s.end, s.waiting, s.in_hand, s.delayed) for name, s in sorted(stats.buckets.items())],
        right=("floor", "next", "end", "waiting", "in hand", "delayed"),
    )
    if stats.consumers:
        line()
        table(
            ("consumer", "in hand", "leases", "settled", "state"),
            [
                (name, c.in_hand, c.leases, c.settled, "silent" if c.silent else "there" if c.joined else "awaited")
                for name, c in sorted(stats.consumers.items())
            ],
            right=("in hand", "leases", "settled"),
        )


@command.command(epilog=examples("dq sink seek mailers oldest", "dq sink seek mailers 2h", "dq sink seek mailers orders/0/17"))
@click.argument("name")
@click.argument("where", metavar="WHERE")
@click.option("--yes", is_flag=True, help="Do not ask.")
@data
@as_json
def seek(name: str, where: str, yes: bool, root: Path, as_json: bool) -> int:
    """Moves a sink to WHERE: oldest, newest, an id (after it), a position, a time ago as 2h, or a date.

    It goes on from there, also with records that it had settled.
    """
    with Broker(root) as broker:
        sink = sink_of(broker, name)
        confirmed(f"move sink {name!r} to {where}", yes=yes)
        sink.seek(place_of(where))
        outcome({"sink": name, "where": where}, as_json=as_json)
    return Exit.WELL


@command.command(epilog=examples("dq sink reset mailers --yes"))
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@data
@as_json
@click.pass_context
def reset(context: click.Context, name: str, yes: bool, root: Path, as_json: bool) -> int:
    """Moves a sink back to the oldest record that is kept: all comes again."""
    code: int = context.invoke(seek, name=name, where="oldest", yes=yes, root=root, as_json=as_json)
    return code


@command.command(epilog=examples("dq sink pause mailers"))
@click.argument("name")
@data
@as_json
def pause(name: str, root: Path, as_json: bool) -> int:
    """Hands out nothing more until `resume`, also after restarts; what is in hand can be settled."""
    with Broker(root) as broker:
        sink_of(broker, name).pause()
        outcome({"sink": name, "paused": True}, as_json=as_json)
    return Exit.WELL


@command.command(epilog=examples("dq sink resume mailers"))
@click.argument("name")
@data
@as_json
def resume(name: str, root: Path, as_json: bool) -> int:
    """Hands out again."""
    with Broker(root) as broker:
        sink_of(broker, name).resume()
        outcome({"sink": name, "paused": False}, as_json=as_json)
    return Exit.WELL


@command.command(epilog=examples("dq sink destroy mailers --yes", "dq sink destroy mailers --if-exists --yes"))
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@if_exists
@data
@as_json
def destroy(name: str, yes: bool, if_exists: bool, root: Path, as_json: bool) -> int:
    """Forgets a sink and where it stands, for good. The records of its streams stay."""
    with Broker(root) as broker:
        if if_exists and check_name("sink", name) not in broker.sinks():
            outcome({"sink": name, "destroyed": False}, as_json=as_json)
            return Exit.WELL
        sink = sink_of(broker, name)
        confirmed(f"destroy sink {name!r}", yes=yes)
        sink.destroy()
        outcome({"sink": name, "destroyed": True}, as_json=as_json)
    return Exit.WELL

"""`dq who`: who holds what, since when and until when; and taking it back."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from dq.cli.exits import Exit
from dq.cli.named import sink_of, sink_or_stream
from dq.cli.options import as_json, confirmed, data, examples
from dq.cli.output import json_line, line, number, remark, seconds, table
from dq.client.broker import Broker
from dq.client.holdings import Holding, Holdings
from dq.config import LIMITS
from dq.errors import InvalidSetting
from dq.model.start import parse_start


@click.command(
    epilog=examples(
        "dq who",
        "dq who mailers --json | jq -r 'select(.attempt > 1) | .pid'",
        "dq who --release mailers orders/0/17",
        "dq who --release mailers --consumer c-1f09",
    )
)
@click.argument("name", required=False, metavar="[SINK|STREAM]")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@data
@as_json
@click.option("--sink", help="Only of this sink.")
@click.option("--stream", help="Only records of this stream.")
@click.option("--consumer", help="Only what this consumer has.")
@click.option(
    "-n", "--limit", type=click.IntRange(1, LIMITS.holdings_max), default=LIMITS.holdings_max, metavar="COUNT",
    help=f"So many leases at most (default and most: {LIMITS.holdings_max:,}); the rest is counted.",
)  # fmt: skip
@click.option(
    "--release", is_flag=True, help="Take the records ID of the sink back from who holds them, or all that --consumer has."
)
@click.option("--yes", is_flag=True, help="Do not ask before --release.")
def command(
    name: str | None,
    ids: tuple[str, ...],
    root: Path,
    as_json: bool,
    sink: str | None,
    stream: str | None,
    consumer: str | None,
    limit: int,
    release: bool,
    yes: bool,
) -> int:
    """Shows who holds what: each lease in a consumer's hand, for how long it has been there and will be; and the processes,
    with the times at which they were started. One that is renewed comes back only when its process is gone or stands still.

    --release takes records back: they go to another consumer, at the same attempt, also if the one that has them hangs. That
    one is not told: an ack of it counts if nobody was faster. It gets nothing new until its code goes on.
    """
    if release:
        return _release(root, name or sink, ids, consumer, yes=yes)
    if ids:
        raise click.UsageError(f"records as {ids[0]!r} are named for --release alone")
    with Broker(root) as broker:
        sink, stream = sink_or_stream(broker.sinks(), broker.streams(), name, sink, stream)
        found = broker.who(sink or "", stream=stream, consumer=consumer, limit=limit)
    if as_json:
        for each in found:
            json_line(_fields(each))
    else:
        _show(found)
    if found.more:
        remark(f"{number(found.more)} leases more: name a sink, --stream or --consumer")
    return Exit.WELL


def _fields(each: Holding) -> dict[str, Any]:
    moments = {name: _stamp(getattr(each, name)) for name in ("started", "since", "until")}
    return {"id": each.id, **asdict(each), **moments}


def _stamp(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def _show(found: Holdings) -> None:
    """The leases, and the processes that have them: one may have many."""
    now = datetime.now(UTC)
    table(
        ("sink", "records", "open", "consumer", "held", "left", "attempt", "note"),
        [
            (
                each.sink, each.ids, number(each.open), each.consumer,
                "" if each.since is None else seconds(max((now - each.since).total_seconds(), 0.0)),
                _left(each, now), each.attempt, each.note,
            )
            for each in found
        ],
        right=("open", "attempt"),
    )  # fmt: skip
    holders = {(each.sink, each.consumer): each for each in found}
    if holders:
        line()
        table(
            ("consumer", "pid", "started", "state"),
            [(each.consumer, each.pid, _moment(each.started), each.state) for each in holders.values()],
            right=("pid",),
        )


def _moment(moment: datetime | None) -> str:
    return "" if moment is None else moment.astimezone().isoformat(sep=" ", timespec="seconds")[:19]


def _left(each: Holding, now: datetime) -> str:
    """How long until it comes back. One that is renewed while its process lives comes back only after that."""
    if each.until is None:
        return ""
    left = seconds(max((each.until - now).total_seconds(), 0.0))
    return left if each.extended or each.state != "connected" else f"{left}, renewed"


def _release(root: Path, name: str | None, ids: tuple[str, ...], consumer: str | None, *, yes: bool) -> int:
    if name is None:
        raise click.UsageError("--release needs a sink: dq who --release SINK ID..., or SINK --consumer ID")
    if (consumer is not None) == bool(ids):
        raise click.UsageError("--release needs the ids of records, or a --consumer: one of both")
    for each in ids:
        _check_id(each)
    with Broker(root) as broker:
        sink = sink_of(broker, name)
        what = f"{len(ids):,} records" if consumer is None else f"all that {consumer!r} has"
        confirmed(f"take back {what} in sink {name!r}, to be handed out again", yes=yes)
        done = sink.release(*ids, consumer=consumer)
    line(f"{number(done)} records taken back")
    if not done:
        remark("nobody has them in hand: they were settled, or wait already")
    return Exit.WELL if done else Exit.UNKNOWN


def _check_id(text: str) -> None:
    try:
        well = parse_start(text).after is not None
    except InvalidSetting:
        well = False
    if not well:
        raise click.UsageError(f"{text!r} is no id of a record, as orders/0/17")

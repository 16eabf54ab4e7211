"""`dq dlq`: the dead letters of a stream: looked at, replayed, thrown away."""

from __future__ import annotations

import base64
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from dq.cli.exits import Exit
from dq.cli.options import F, as_json, confirmed, data, examples, place_of
from dq.cli.output import json_line, line, number, one_line, outcome, pairs, safe, table
from dq.client.broker import Broker
from dq.client.dead_letters import DeadRecord


@click.group(
    epilog=examples("dq dlq list orders", "dq dlq show orders orders-dlq/0/3", "dq dlq replay orders --error Timeout --yes")
)
def command() -> None:
    """Shows, replays and discards what the sinks of a stream gave up."""


def _filters(function: F) -> F:
    """`--sink`, `--reason`, `--error`, `--since`."""
    for option in (
        click.option("--since", metavar="WHEN", help="Only those given up then or later: 2h (ago), or a date."),
        click.option("--error", metavar="TEXT", help="Only those in whose error this stands."),
        click.option("--reason", metavar="TEXT", help="Only those whose reason begins so."),
        click.option("--sink", help="Only those of this sink."),
    ):
        function = option(function)
    return function


def _wish(sink: str | None, reason: str | None, error: str | None, since: str | None) -> dict[str, Any]:
    wish = {"sink": sink, "reason": reason, "error": error, "since": None if since is None else place_of(since)}
    return {name: value for name, value in wish.items() if value is not None}


def _fields(letter: DeadRecord) -> dict[str, Any]:
    fields = asdict(letter)
    if isinstance(letter.payload, bytes):
        fields["base64"] = base64.b64encode(fields.pop("payload")).decode("ascii")
    return fields


@command.command(name="list", epilog=examples("dq dlq list orders", "dq dlq list orders --since 1d --json | jq .death.error"))
@click.argument("stream")
@_filters
@click.option("-n", "--limit", type=click.IntRange(1), metavar="COUNT", help="So many at most.")
@data
@as_json
def list_(stream: str, limit: int | None, root: Path, as_json: bool, **filters: Any) -> int:
    """Lists the dead letters of STREAM, the oldest first."""
    with Broker(root) as broker:
        found = broker.dlq(stream).list(limit, **_wish(**filters))
        if as_json:
            for letter in found:
                json_line(_fields(letter))
        else:
            table(
                ("id", "of", "given up at", "sink", "attempts", "reason", "error"),
                [
                    (
                        each.id, each.original_id, each.death.at.astimezone().isoformat(sep=" ", timespec="seconds"),
                        each.death.sink, each.death.attempts, each.death.reason, each.death.error,
                    )
                    for each in found
                ],
                right=("attempts",),
            )  # fmt: skip
    return Exit.WELL


@command.command(epilog=examples("dq dlq show orders orders-dlq/0/3", "dq dlq show orders orders-dlq/0/3 --json | jq .payload"))
@click.argument("stream")
@click.argument("letter", metavar="ID")
@data
@as_json
def show(stream: str, letter: str, root: Path, as_json: bool) -> int:
    """Shows one dead letter with all it says: its record, why it was given up, the traceback, and earlier deaths."""
    with Broker(root) as broker:
        found = broker.dlq(stream).show(letter)
    if as_json:
        json_line(_fields(found))
        return Exit.WELL
    death = found.death
    pairs(
        {
            "id": found.id,
            "record": found.original_id,
            "published": found.published_at,
            "given up": death.at,
            "by": f"sink {death.sink}, consumer {death.consumer}, after {death.attempts} attempts",
            "reason": death.reason,
            "error": death.error,
            "key": found.key,
            "topic": found.topic,
            "name": found.name,
            "headers": found.headers,
            "payload": found.payload,
        }
    )
    for earlier in found.history:
        line(f"before    {earlier.at.isoformat(timespec='seconds')}: {one_line(earlier.reason)}, {one_line(earlier.error)}")
    if death.traceback:
        line()
        line(safe(death.traceback.rstrip()))
    return Exit.WELL


@command.command(epilog=examples("dq dlq replay orders orders-dlq/0/3", "dq dlq replay orders --sink billing --yes"))
@click.argument("stream")
@click.argument("letters", nargs=-1, metavar="[ID]...")
@_filters
@click.option("--yes", is_flag=True, help="Do not ask.")
@data
@as_json
def replay(stream: str, letters: tuple[str, ...], yes: bool, root: Path, as_json: bool, **filters: Any) -> int:
    """Publishes records once more, each for the sink that gave it up; without ids all that the options let through."""
    with Broker(root) as broker:
        dead, wish = broker.dlq(stream), _wish(**filters)
        if not letters:
            confirmed(f"replay {dead.count(**wish):,} dead letters of {stream!r}", yes=yes)
        done = dead.replay(*letters, **wish)
    outcome({"stream": stream, "replayed": done}, f"{number(done)} dead letters replayed", as_json=as_json)
    return Exit.WELL if done else Exit.UNKNOWN


@command.command(epilog=examples("dq dlq discard orders orders-dlq/0/3", "dq dlq discard orders --since 1h --yes"))
@click.argument("stream")
@click.argument("letters", nargs=-1, metavar="[ID]...")
@_filters
@click.option("--yes", is_flag=True, help="Do not ask.")
@data
@as_json
def discard(stream: str, letters: tuple[str, ...], yes: bool, root: Path, as_json: bool, **filters: Any) -> int:
    """Throws dead letters away, for good; without ids all that the options let through."""
    with Broker(root) as broker:
        dead, wish = broker.dlq(stream), _wish(**filters)
        if not letters:
            confirmed(f"discard {dead.count(**wish):,} dead letters of {stream!r}", yes=yes)
        done = dead.discard(*letters, **wish)
    outcome({"stream": stream, "discarded": done}, f"{number(done)} dead letters discarded", as_json=as_json)
    return Exit.WELL if done else Exit.UNKNOWN

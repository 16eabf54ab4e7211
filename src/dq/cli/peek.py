"""`dq peek SINK|STREAM`: what would come next, and what waits for what; nothing is taken."""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import click

from dq.cli.exits import Exit
from dq.cli.named import on_disk, sink_of, sink_or_stream
from dq.cli.options import as_json, data, examples
from dq.cli.output import json_line, number, remark, seconds, table
from dq.cli.records import FORMAT_HELP, Printer, by_format, fields_of, for_people
from dq.cli.tail import kept, newest_of
from dq.client.broker import Broker
from dq.client.place import is_data_directory
from dq.client.reader import Reader
from dq.errors import BrokerError, DqError, UnknownStream
from dq.history import Ahead, Standing, ahead
from dq.model.names import LATER_SUFFIX
from dq.model.record import Record

_COUNT = 10
_COUNT_MAX = 10_000


@click.command(
    epilog=examples(
        "dq peek mailers",
        "dq peek mailers -n 100 --json | jq 'select(.state == \"ready\") | .id'",
        "dq peek orders --newest",
        "dq peek --stream orders --format '%i %s\\n'",
    )
)
@click.argument("name", required=False, metavar="SINK|STREAM")
@data
@click.option("--sink", help="This sink, where a stream has the same name.")
@click.option("--stream", help="This stream, where a sink has the same name.")
@click.option(
    "-n", "--count", type=click.IntRange(1, _COUNT_MAX), default=_COUNT, metavar="COUNT",
    help=f"So many records at most (default: {_COUNT}).",
)  # fmt: skip
@click.option("--newest", is_flag=True, help="Of a stream, its newest records; default: its oldest.")
@click.option("--format", "form", metavar="FORMAT", help=FORMAT_HELP)
@as_json
def command(
    name: str | None,
    root: Path,
    sink: str | None,
    stream: str | None,
    count: int,
    newest: bool,
    form: str | None,
    as_json: bool,
) -> int:
    """Shows the records that a sink would hand out next, or the oldest (or newest) of a stream; takes nothing, settles nothing.

    Of a sink first come those that are ready, then those that wait for a retry, then those in a consumer's hand. It is read
    from the logs, with or without a broker. It exits with 3 if there is no record.
    """
    if (name is not None) + (sink is not None) + (stream is not None) != 1:
        raise click.UsageError("name one sink or one stream")
    if form is not None and as_json:
        raise click.UsageError("choose one of --json and --format")
    if not is_data_directory(root):
        raise UnknownStream(f"{root} is no data directory: name the one you mean, as by --data or DQ_DIR")
    sink, stream = sink_or_stream(on_disk(root, "sinks"), on_disk(root, "streams"), name, sink, stream)
    show = None if form is None else by_format(form)
    if sink is None:
        assert stream is not None
        return _peek_stream(root, stream, count, show, newest=newest, as_json=as_json)
    if newest:
        raise click.UsageError("--newest is for streams: what a sink hands out next is the oldest that waits")
    return _peek_sink(root, sink, count, show, as_json=as_json)


# --- a sink ------------------------------------------------------------------------------------------------------------


def _peek_sink(root: Path, sink: str, count: int, show: Printer | None, *, as_json: bool) -> int:
    found = ahead(root, sink, count)
    broker = _asked(root, sink)
    if as_json:
        for each in found.standing:
            json_line(_standing_fields(each, broker.untils))
    elif show is not None:
        _print(show, [each.record for each in found.standing if each.record is not None])
    elif found.standing:
        _show(found, broker.untils)
    for text in [*found.gaps, *broker.remarks, *_remarks(found, runs=broker.runs)]:
        remark(text)
    return Exit.WELL if found.standing else Exit.NOTHING


class _Asked:
    """What only a broker knows: until when leases last, by their numbers; and what is to come."""

    def __init__(self) -> None:
        self.runs = False
        self.untils: dict[int, datetime] = {}
        self.remarks: list[str] = []


def _asked(root: Path, sink: str) -> _Asked:
    """What the broker says; nothing where none runs, or it does not know the sink: its logs are there all the same."""
    asked = _Asked()
    with suppress(BrokerError), Broker(root) as broker:
        asked.runs = True
        with suppress(DqError):
            asked.untils = {each.lease: each.until for each in broker.who(sink) if each.until is not None}
            asked.remarks = _still_to_come(broker, sink_of(broker, sink).stats().streams)
    return asked


def _still_to_come(broker: Broker, streams: Collection[str]) -> list[str]:
    """Records that were published with a delay are none of a stream until their time."""
    told = []
    for stream, each in sorted(broker.stats()["consumer_broker"].get("later", {}).items()):
        if stream in streams and each["waiting"]:
            due = "" if each["next_due"] is None else f", the next in {seconds(each['next_due'])}"
            told.append(
                f"{number(each['waiting'])} delayed records of {stream} are still to come{due}: dq peek {each['stream']}"
            )
    return told


def _remarks(found: Ahead, *, runs: bool) -> Iterator[str]:
    if found.paused:
        yield f"the sink is paused, and hands out nothing: dq sink resume {found.sink}"
    if not runs and any(each.state == "in hand" for each in found.standing):
        yield "no broker runs: what was in hand is waited for a few seconds when one starts, and is ready then"
    if not found.standing:
        yield "it has settled all there is"


def _standing_fields(each: Standing, untils: dict[int, datetime]) -> dict[str, Any]:
    until = _until(each, untils)
    told: dict[str, Any] = {"id": each.id} if each.record is None else fields_of(each.record)
    told |= {"state": each.state, "attempt": each.attempt}
    holder = {"consumer": each.consumer, "pid": each.pid or None, "lease": each.lease, "since": each.since}
    more = {"until": until, "last_error": each.error or None} | holder
    return told | {name: value for name, value in more.items() if value is not None}


def _until(each: Standing, untils: dict[int, datetime]) -> float | None:
    if each.lease is not None and each.lease in untils:
        return untils[each.lease].timestamp()
    return each.until


def _show(found: Ahead, untils: dict[int, datetime]) -> None:
    now = time.time()
    table(
        ("state", "attempt", "record"),
        [(_state(each, _until(each, untils), now), each.attempt, _line(each)) for each in found.standing],
        right=("attempt",),
    )


def _line(each: Standing) -> str:
    return f"{each.id} (its line cannot be read)" if each.record is None else for_people(each.record)


def _state(each: Standing, until: float | None, now: float) -> str:
    left = None if until is None else seconds(max(until - now, 0.0))
    if each.state == "retry":
        return "retry" if left is None else f"retry in {left}"
    if each.state == "in hand":
        pid = f" (pid {each.pid})" if each.pid else ""
        return f"in hand of {each.consumer}{pid}" + (f", {left} left" if left is not None else "")
    return {"alone": "ready, alone", "dying": "becomes a dead letter"}.get(each.state, each.state)


# --- a stream ----------------------------------------------------------------------------------------------------------


def _peek_stream(root: Path, stream: str, count: int, show: Printer | None, *, newest: bool, as_json: bool) -> int:
    records = newest_of(root, (stream,), count)[0] if newest else _oldest(root, stream, count)
    if as_json:
        for record in records:
            json_line({**fields_of(record), **_record_state(record)})
    elif show is not None:
        _print(show, records)
    elif records:
        now = time.time()
        table(("state", "record"), [(_record_words(record, now), for_people(record)) for record in records])
    with suppress(BrokerError), Broker(root) as broker:
        for text in _still_to_come(broker, [stream]):
            remark(text)
    return Exit.WELL if records else Exit.NOTHING


def _oldest(root: Path, stream: str, count: int) -> list[Record]:
    with Reader(root, stream, start="oldest", follow=False) as reader:
        return list(islice(kept(reader), count))


def _record_state(record: Record) -> dict[str, Any]:
    """Of those that wait for their time in the stream of delayed records, whether it has come."""
    due = record.due_at
    if due is None or not record.stream.endswith(LATER_SUFFIX):
        return {"state": "committed"}
    return {"state": "delayed", "until": due.timestamp()} if due.timestamp() > time.time() else {"state": "due"}


def _record_words(record: Record, now: float) -> str:
    told = _record_state(record)
    return f"delayed, {seconds(told['until'] - now)} left" if "until" in told else str(told["state"])


def _print(show: Printer, records: list[Record]) -> None:
    for record in records:
        sys.stdout.write(show(record))

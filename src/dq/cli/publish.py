"""`dq publish STREAM [JSON|-]`: records from the command line, or a line of standard input each."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import orjson

from dq.cli.exits import Exit
from dq.cli.options import Moment, Span, as_json, data, examples, start_broker
from dq.cli.output import json_line, line, number, remark
from dq.cli.reach import reached
from dq.cli.trace_variables import headers_of
from dq.client.publisher import Publisher
from dq.errors import DqError, InvalidPayload
from dq.model.task import TaskIn


@click.command(
    epilog=examples(
        """dq publish emails '{"to": "ada@example.org"}' --key ada""",
        "cat events.jsonl | dq publish events -",
        "tail -F access.log | dq publish access - --text",
        "dq publish emails '\"good night\"' --delay 8h",
    )
)
@click.argument("stream")
@click.argument("payload", required=False, metavar="[JSON|-]")
@data
@click.option("--key", help="Chooses the bucket; records of one key keep their order.")
@click.option("--topic", help="A label, by which sinks and readers choose.")
@click.option("--name", default="", help="What happened.")
@click.option("-H", "--header", "headers", multiple=True, metavar="NAME:TEXT", help="May be given again.")
@click.option("--delay", type=Moment(), help="Hand it out no sooner: 90s, 2h, or a date and time.")
@click.option("--expires", type=Moment(), help="Do not hand it out after that: 90s, 2h, or a date and time.")
@click.option("--once", metavar="KEY", help="Store nothing if KEY was published in the last minutes.")
@click.option(
    "--priority", type=click.IntRange(0, 9), default=0, metavar="0..9", help="Higher comes first, in a stream made for it."
)
@click.option(
    "--timeout", type=Span(), metavar="TIME", help="Wait so long for the answer, of one record (default: publish_timeout, 10s)."
)
@click.option("--text", is_flag=True, help="The payload is text, not JSON.")
@click.option("--no-create", is_flag=True, help="Refuse to make a missing stream.")
@start_broker
@as_json
def command(
    stream: str, payload: str | None, root: Path, as_json: bool, text: bool, no_create: bool, start_broker: str, **ways: Any
) -> int:
    """Publishes to STREAM, and returns once all is committed.

    The payload is the argument; with -, or without one, each line of standard input is a record. Prints the id of one record,
    the number of many. Where TRACEPARENT is set, the trace that it names goes along in the headers.
    """
    if payload is None and sys.stdin.isatty():
        raise click.UsageError("give a payload, or - for lines of standard input")
    headers = _headers(ways["headers"])
    if "traceparent" not in headers:
        headers = headers_of(os.environ) | headers
    wish = {name: value for name, value in ways.items() if value} | {"headers": headers or None}
    with reached(root, start_broker) as broker, Publisher(broker, stream, create=not no_create) as publisher:
        if payload is not None and payload != "-":
            receipt = publisher.publish(_payload(payload, "the payload", text=text), **wish)
            json_line({"id": receipt.id, "durability": receipt.durability}) if as_json else line(receipt.id)
            return Exit.WELL
        if ways["timeout"] is not None:
            raise click.UsageError("--timeout is for one record: lines are published as long as they come")
        return _publish_lines(publisher, wish, text=text, json=as_json)


def _publish_lines(publisher: Publisher, wish: dict[str, Any], *, text: bool, json: bool) -> int:
    try:
        receipts = publisher.publish_many(_tasks(wish, text=text))
    except DqError as error:
        remark(f"{number(len(error.receipts or ()))} records were published before this:")
        raise
    if json:
        for receipt in receipts:
            json_line({"id": receipt.id, "durability": receipt.durability})
    else:
        line(f"{number(len(receipts))} record{'s' if len(receipts) != 1 else ''} published")
    return Exit.WELL


def _tasks(wish: dict[str, Any], *, text: bool) -> Iterator[TaskIn]:
    for count, raw in enumerate(sys.stdin.buffer, 1):
        if raw.strip() or text:
            yield TaskIn(_payload(raw.rstrip(b"\r\n"), f"line {count}", text=text), **wish)


def _payload(raw: str | bytes, where: str, *, text: bool) -> Any:
    if text:
        return raw if isinstance(raw, str) else raw.decode("utf-8", "replace")
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidPayload(f"{where} is not JSON ({error}): put strings into double quotes, or use --text") from None


def _headers(given: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for each in given:
        name, colon, value = each.partition(":")
        if not colon or not name:
            raise click.UsageError(f"--header: {each!r} is not NAME:TEXT")
        found[name.strip()] = value.strip()
    return found

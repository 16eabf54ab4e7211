"""`dq tail STREAM`: reads records, settles nothing."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click

from dq.cli.exits import Exit
from dq.cli.options import as_json, data, examples, place_of
from dq.cli.records import FORMAT_HELP, for_people, printer
from dq.client.reader import Reader
from dq.errors import RecordsTrimmed
from dq.model.record import Record
from dq.model.start import parse_start

_LAST = 10


@click.command(
    epilog=examples(
        "dq tail orders",
        "dq tail orders -f",
        "dq tail orders --from oldest --json | jq .payload.total",
        "dq tail orders --from 2h --format '%d %k %s\\n'",
    )
)
@click.argument("streams", nargs=-1, required=True, metavar="STREAM...")
@data
@click.option("--from", "start", metavar="WHERE", help="oldest, newest, an id (after it), a position, 2h (ago), or a date.")
@click.option(
    "-n",
    "--count",
    type=click.IntRange(0),
    metavar="COUNT",
    help=f"So many; without --from the last (default: {_LAST}).",
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("--topic", help="Only records with this topic.")
@click.option("--format", "form", metavar="FORMAT", help=FORMAT_HELP)
@as_json
def command(
    streams: tuple[str, ...],
    root: Path,
    start: str | None,
    count: int | None,
    follow: bool,
    topic: str | None,
    form: str | None,
    as_json: bool,
) -> int:
    """Prints the last records of a stream, or those from a place on; settles nothing.

    Works without a running broker too, but cannot follow then.
    """
    show = printer(form, json=as_json, plain=for_people)
    end = "" if form is not None else "\n"
    for record in _records(root, streams, start, count, follow=follow, topic=topic):
        sys.stdout.write(show(record) + end)
        if follow:
            sys.stdout.flush()
    return Exit.WELL


def _records(
    root: Path, streams: tuple[str, ...], start: str | None, count: int | None, *, follow: bool, topic: str | None
) -> Iterator[Record]:
    options: dict[str, Any] = {"topic": topic}
    if start is not None:
        with Reader(root, *streams, start=place_of(start), follow=follow, **options) as reader:
            yield from reader if count is None else islice(reader, count)
        return
    records, position = newest_of(root, streams, _LAST if count is None else count, topic=topic)
    yield from records
    if follow:
        with Reader(root, *streams, start=position, **options) as reader:
            yield from reader


def newest_of(root: Path, streams: tuple[str, ...], count: int, *, topic: str | None = None) -> tuple[list[Record], str]:
    """So many of the newest records of streams, and the position behind them."""
    with Reader(root, *streams, start="newest", topic=topic) as reader:
        position = reader.position
    with Reader(root, *streams, start=_before(position, count), follow=False, topic=topic) as reader:
        return _newest(kept(reader), count), reader.position


def kept(reader: Reader) -> Iterator[Record]:
    """All that is still there: nobody asked for what was trimmed of the last ones."""
    while True:
        try:
            yield from reader
        except RecordsTrimmed:
            continue
        return


def _newest(records: Iterable[Record], count: int) -> list[Record]:
    """The newest of all buckets, in the order of their times; of one bucket in their order."""
    by_bucket: dict[tuple[str, int], deque[Record]] = {}
    for record in records:
        by_bucket.setdefault((record.stream, record.bucket), deque(maxlen=count)).append(record)
    if len(by_bucket) <= 1:
        return [record for kept in by_bucket.values() for record in kept]
    found = sorted((record for kept in by_bucket.values() for record in kept), key=lambda record: record.created_at)
    return found[max(len(found) - count, 0) :]


def _before(position: str, count: int) -> str:
    """The position with each bucket so many records earlier."""
    offsets = parse_start(position).offsets
    return ";".join(f"{name}=" + ",".join(str(max(each - count, 0)) for each in ends) for name, ends in offsets.items())

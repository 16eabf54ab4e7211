"""`dq at STREAM WHEN`: what a stream and its sinks looked like then."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import click

from dq.cli.exits import Exit
from dq.cli.explain import moment
from dq.cli.options import as_json, data, examples, place_of
from dq.cli.output import json_line, line, one_line, remark, table
from dq.history import SinkThen, StreamThen, state_at


@click.command(
    epilog=examples(
        "dq at orders 2h",
        "dq at orders 2026-01-31T09:00:00+01:00 --sink billing",
        "dq at orders orders/0/17",
        "dq at orders 17 --json | jq '.sinks[] | {sink, waiting}'",
    )
)
@click.argument("stream")
@click.argument("when", metavar="TIME|OFFSET|ID")
@data
@click.option("--sink", help="Tell of this sink alone.")
@as_json
def command(stream: str, when: str, root: Path, sink: str | None, as_json: bool) -> int:
    """Shows what STREAM and its sinks looked like then: settled, waiting, in whose hands.

    TIME is a date and time, now, or a span that lies back with its unit, as 90s or 2h. OFFSET (of a stream with one bucket)
    and ID mean the moment when that record had just been committed. It is rebuilt from the logs alone, with or without a
    broker, as far as they are kept.
    """
    then = state_at(root, stream, _when(when), sink=sink)
    if as_json:
        json_line(then.to_dict())
    else:
        _show(then)
    return Exit.WELL


def _when(text: str) -> int | str | datetime | timedelta:
    if text.isascii() and text.isdigit():
        return int(text)
    when = timedelta() if text == "now" else place_of(text)
    if when == "newest":
        return timedelta()
    if isinstance(when, str) and "/" not in when:
        raise click.UsageError(f"{text!r} is no moment: a date and time, a span as 2h (ago), an offset or the id of a record")
    return when


def _show(then: StreamThen) -> None:
    line(f"{one_line(then.stream)} at {moment(then.at)}")
    line()
    table(
        ("bucket", "first", "end"),
        [(bucket.bucket, bucket.first, "?" if bucket.end is None else bucket.end) for bucket in then.buckets],
        right=("bucket", "first", "end"),
    )
    line()
    numbers = ("settled", "waiting", "in hand", "delayed", "dying", "burned")
    table(("sink", *numbers, "state"), [_row(sink) for sink in then.sinks], right=numbers)
    held = [(sink.sink, each) for sink in then.sinks for each in sink.held]
    if held:
        line()
        table(
            ("in hand of", "pid", "sink", "lease", "records", "since"),
            [
                (
                    each.consumer, each.pid or "", sink, each.lease, _records(then.stream, each.bucket, each.ranges),
                    "" if each.since is None else moment(each.since),
                )
                for sink, each in held
            ],
            right=("pid", "lease"),
        )  # fmt: skip
    burned = [(sink.sink, each) for sink in then.sinks for each in sink.burned]
    if burned:
        line()
        table(
            ("burned", "sink", "attempts", "state", "error"),
            [(each.record, sink, each.attempts, each.state, each.error.partition("\n")[0]) for sink, each in burned],
            right=("attempts",),
        )
    for gap in then.gaps:
        remark(gap)


def _row(sink: SinkThen) -> tuple[object, ...]:
    waiting = "?" if sink.waiting is None else sink.waiting
    numbers = (sink.settled, waiting, sink.in_hand, sink.delayed, sink.dying, len(sink.burned))
    return (sink.sink, *numbers, "paused" if sink.paused else "")


def _records(stream: str, bucket: int, ranges: tuple[tuple[int, int], ...]) -> str:
    parts = [str(first) if stop == first + 1 else f"{first}-{stop - 1}" for first, stop in ranges]
    return f"{stream}/{bucket}/{','.join(parts)}"

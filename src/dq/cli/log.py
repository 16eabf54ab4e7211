"""`dq log`: the files in which it all stands."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from dq.cli.exits import Exit
from dq.cli.failures import code_of
from dq.cli.options import as_json, data, examples
from dq.cli.output import json_line, line, number, one_line, remark, size, table
from dq.errors import LogError, UnknownStream
from dq.log.layout import LATER_LOG, Layout
from dq.mend.segments import Pin, Segment, StreamSegments, look_at_segments
from dq.mend.sinks import SinkOnDisk, read_sink_on_disk, sink_names
from dq.mend.target import check_data_directory
from dq.model.names import near_names


@click.group(epilog=examples("dq log stats", "dq log stats orders --json | jq '.segments[].pins'"))
def command() -> None:
    """Tells of the log files of a data directory, whether a broker serves it or not."""


@command.command(epilog=examples("dq log stats", "dq log stats orders", "dq log stats --json | jq 'select(.disk)'"))
@click.argument("stream", required=False)
@data
@as_json
def stats(stream: str | None, root: Path, as_json: bool) -> int:
    """Shows each segment of STREAM, or of all streams: its records, how many of them some sink has not settled yet (the live
    share), which sink and record pin it, and why it is still there; what the sinks' own logs take; and how full the disk is.

    Works with and without a running broker, and reads the disk alone. It exits with 65 if a log is damaged.
    """
    names = _streams(root, stream)
    sinks, failures = _sinks(root)
    found = [look_at_segments(root, name, sinks, all_sinks=not failures) for name in names]
    (_print_json if as_json else _print)(root, found, _sink_logs(root) if stream is None else {})
    failures += [failure for each in found for failure in each.failures]
    for failure in failures:
        remark(str(failure))
    return max(map(code_of, failures)) if failures else Exit.WELL


def _streams(root: Path, stream: str | None) -> list[str]:
    layout = Layout(root)
    check_data_directory(root)
    known = sorted(path.name for path in layout.streams.glob("*") if (path / "stream.json").is_file())
    if stream is None:
        return known
    if stream not in known:
        raise UnknownStream(f"there is no stream {stream!r} in {root}: {near_names(stream, known, 'streams')}")
    return [stream]


def _sinks(root: Path) -> tuple[list[SinkOnDisk], list[LogError]]:
    found, failures = list[SinkOnDisk](), list[LogError]()
    for name in sink_names(root):
        try:
            found.append(read_sink_on_disk(root, name))
        except LogError as error:
            failures.append(error)
    return found, failures


def _sink_logs(root: Path) -> dict[str, tuple[int, int]]:
    """Of each log of a sink, and of delayed records: files, and bytes."""
    found = {}
    for path in sorted(Layout(root).sinks.glob("*")):
        if path.is_dir() and not path.name.startswith("."):
            sizes = [each.stat().st_size for each in path.glob("*.jsonl")]
            found[path.name] = len(sizes), sum(sizes)
    return found


# --- as JSON -----------------------------------------------------------------------------------------------------------


def _print_json(root: Path, found: Sequence[StreamSegments], sinks: dict[str, tuple[int, int]]) -> None:
    for each in found:
        totals = {"stream": each.name, "records": each.records, "bytes": each.bytes, "live": each.live}
        json_line({**totals, "segments": [_segment(segment) for segment in each.segments]})
    for name, (files, count) in sinks.items():
        kind = "later" if name.startswith(LATER_LOG) else "sink"
        json_line({kind: name.removeprefix(LATER_LOG), "segments": files, "bytes": count})
    disk = shutil.disk_usage(root)
    json_line({"disk": {"root": str(root), "total": disk.total, "used": disk.used, "free": disk.free}})


def _segment(segment: Segment) -> dict[str, Any]:
    names = ("bucket", "first", "stop", "records", "bytes", "first_at", "last_at", "live", "kept")
    fields = {"file": str(segment.file), **{name: getattr(segment, name) for name in names}}
    pins = ("sink", "record", "records", "state", "consumer")
    return {**fields, "pins": [{name: getattr(pin, name) for name in pins} for pin in segment.pins]}


# --- for people --------------------------------------------------------------------------------------------------------


def _print(root: Path, found: Sequence[StreamSegments], sinks: dict[str, tuple[int, int]]) -> None:
    for each in found:
        line(
            f"stream {one_line(each.name)}: {number(each.records)} records, {_share(each.live, each.records)} live, "
            f"{size(each.bytes)} in {len(each.segments)} segments"
        )
        table(
            ("segment", "records", "size", "first", "last", "live", "needed by", "kept"),
            [_row(segment) for segment in each.segments],
            right=("records", "size", "live"),
        )
        line()
    if sinks:
        rows = [(name, files, size(count)) for name, (files, count) in sinks.items()]
        table(("log of sink", "segments", "size"), rows, right=("segments", "size"))
        line()
    disk = shutil.disk_usage(root)
    total = sum(each.bytes for each in found) + sum(count for _, count in sinks.values())
    line(f"these take {size(total)}; of the disk {size(disk.used)} are used and {size(disk.free)} free, of {size(disk.total)}")


def _row(segment: Segment) -> tuple[Any, ...]:
    """The file is named by bucket and first offset, as its name has it."""
    return (
        f"{segment.bucket}/{segment.first}", number(segment.records), size(segment.bytes), _local(segment.first_at),
        _local(segment.last_at), _share(segment.live, segment.records), _needed(segment.pins), segment.kept,
    )  # fmt: skip


def _needed(pins: Sequence[Pin]) -> str:
    """The sink that is furthest behind, and how many others are."""
    if not pins:
        return ""
    pin, others = pins[0], f" and {len(pins) - 1} more" if len(pins) > 1 else ""
    holder = f" by {pin.consumer}" if pin.consumer else ""
    return f"{pin.sink}: {pin.record} {pin.state}{holder}{others}"


def _share(live: int | None, records: int) -> str:
    if live is None:
        return "-"
    return f"{live / records:.0%}" if records else "0%"


def _local(at: float | None) -> str:
    return "" if at is None else datetime.fromtimestamp(at).astimezone().strftime("%m-%d %H:%M:%S")

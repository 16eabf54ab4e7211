"""`dq verify [DIR]`: checks every log of a data directory and changes nothing."""

from __future__ import annotations

from pathlib import Path

import click

from dq.cli.exits import Exit
from dq.cli.options import as_json, directory, examples
from dq.cli.output import json_line
from dq.mend.verify import LogCheck, Verification, verify


@click.command(epilog=examples("dq verify", "dq verify queue_data --json | jq .logs"))
@directory
@as_json
def command(root: Path, as_json: bool) -> int:
    """Reads every log of a data directory, or of an embedded queue, as a start of the broker would, and changes nothing.

    It exits with 0 if all logs can be opened (a torn end is none the worse), with 65 if one is damaged or newer.
    """
    found = verify(root)
    if as_json:
        json_line(found.to_dict())
    else:
        print_found(found)
    return Exit.DAMAGED if found.faults else Exit.WELL


def print_found(found: Verification) -> None:
    """A line a log, and below it what is wrong."""
    print(f"{found.root}" + (" (a broker serves it: ends may just be being written)" if found.running else ""))
    width = max((len(log.log) for log in found.logs), default=0)
    for log in found.logs:
        print(f"  {log.log:{width}}  {_said(log)}")
        if log.why:
            print(f"  {'':{width}}  {log.why}")
    print(f"{len(found.logs)} logs, {len(found.faults)} with faults" if found.logs else "there are no logs in it")


def _said(log: LogCheck) -> str:
    what = "notes" if log.log.startswith("sinks/") or log.log == "cursors" else "records"
    if log.state in ("whole", "torn"):
        return f"{log.state:8} {log.records:,} {what}, {log.segments} segments, {log.bytes:,} bytes"
    return log.state

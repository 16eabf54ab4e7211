"""`dq import FILE|-`: what was exported, into streams."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

from dq.cli.exits import Exit
from dq.cli.options import CREATE, as_json, data, examples, start_alone
from dq.cli.output import json_line, line, number, remark
from dq.cli.reach import reached
from dq.errors import DqError
from dq.transfer.entry import BadLine, Entries
from dq.transfer.load import Import


@click.command(
    epilog=examples(
        "dq import orders.jsonl --create",
        "dq import orders.jsonl --stream orders-again --create",
        "dq import backup.jsonl --dry-run",
        "gunzip < backup.jsonl.gz | jq -c 'select(.topic != \"test\")' | dq import -",
    )
)
@click.argument("file", metavar="FILE|-", type=click.Path(dir_okay=False, allow_dash=True))
@data
@click.option("--stream", metavar="NAME", help="Into this stream, all of it (default: each record into that of its name).")
@click.option(
    "--create", is_flag=True, help="Make a missing stream, with the settings it had, and for --start a missing data directory."
)
@click.option("--dry-run", is_flag=True, help="Only look whether all could be imported, and say how much that is.")
@click.option("--again", is_flag=True, help="Store once more what is there already.")
@start_alone
@as_json
def command(
    file: str, root: Path, stream: str | None, create: bool, dry_run: bool, again: bool, start_broker: str, as_json: bool
) -> int:
    """Publishes the records of an export, with their keys, topics, names, headers, priorities and times to expire.

    A record has a new id and a new time; the old ones are in its headers dq-import-id and dq-import-time. What an earlier
    import stored is left out as long as its stream keeps it, so that an import that was interrupted can be done again. A FILE
    is looked at as a whole first, and nothing is stored if a line of it is no record; of standard input, what comes before
    such a line is stored. See docs/export.md.
    """
    with click.open_file(file, "rb") as lines, reached(root, CREATE if start_broker and create else start_broker) as broker:
        entries = Entries(stream)
        done = Import(broker, entries, create=create, again=again)
        if file != "-":
            done.check(entries.of(lines))
            lines.seek(0)
        _run(done, entries, lines, dry=dry_run)
    if entries.sinks:
        remark(f"{entries.sinks} sinks are not made: docs/export.md tells how to make one where it stood")
    _tell(done, dry=dry_run, json=as_json)
    return Exit.WELL


def _run(done: Import, entries: Entries, lines: Iterable[bytes], *, dry: bool) -> None:
    try:
        done.run(entries.of(lines), dry=dry)
    except (DqError, OSError, KeyboardInterrupt) as error:
        count = sum(done.imported.values())
        if count and not dry:
            again = "" if isinstance(error, BadLine) else ", and are left out when it is done again"
            remark(f"{number(count)} records were imported before this{again}:")
        raise


def _tell(done: Import, *, dry: bool, json: bool) -> None:
    streams = sorted({*done.imported, *done.passed_over})
    if json:
        for name in streams:
            counts = {"imported": done.imported.get(name, 0), "there_already": done.passed_over.get(name, 0)}
            json_line({"stream": name, **counts, "dry_run": dry})
        return
    would = "would be imported" if dry else "imported"
    known = sum(done.passed_over.values())
    beside = f", {number(known)} were there already" if known else ""
    line(f"{number(sum(done.imported.values()))} records {would} into {', '.join(streams) or 'no stream'}{beside}")

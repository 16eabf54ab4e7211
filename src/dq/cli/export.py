"""`dq export STREAM...`: streams as JSON lines, for another data directory, for `jq`, for a backup."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

import click

from dq import __version__
from dq.cli.exits import Exit
from dq.cli.failures import code_of
from dq.cli.options import data, examples, place_of
from dq.cli.output import number, remark, safe
from dq.cli.termination import tidied_up
from dq.errors import LogError
from dq.transfer.export import Export, Write, stream_names
from dq.transfer.new_file import NewFile, new_file


@click.command(
    epilog=examples(
        "dq export orders -o orders.jsonl",
        "dq export --all --sinks | gzip > backup.jsonl.gz",
        "dq export orders --from 2026-01-31T00:00:00Z --to 2h | jq 'select(.topic == \"eu\")'",
        "dq export orders | dq import - --data elsewhere --create",
    )
)
@click.argument("streams", nargs=-1, metavar="[STREAM]...")
@data
@click.option("--all", "everything", is_flag=True, help="All streams.")
@click.option("--from", "start", metavar="WHERE", help="oldest (default), an id (after it), a position, 2h (ago), or a date.")
@click.option("--to", "stop", metavar="WHERE", help="Up to there; as --from, and an id is the last one (default: all).")
@click.option("-o", "--output", metavar="FILE", help="A new file: there when it is whole (default: standard output).")
@click.option("--force", is_flag=True, help="Replace FILE if it is there.")
@click.option("--sinks", is_flag=True, help="Tell in the first line of the sinks, and what they have settled.")
def command(
    streams: tuple[str, ...],
    root: Path,
    everything: bool,
    start: str | None,
    stop: str | None,
    output: str | None,
    force: bool,
    sinks: bool,
) -> int:
    """Writes records as JSON lines: one that tells of the streams, then one for each record, with its id, time, key, topic,
    headers and payload. `dq import` takes them.

    Works with and without a running broker. Of a damaged log it writes what lies before the damage, and exits with 65; with -o
    that is in FILE.partial then. See docs/export.md.
    """
    if bool(streams) == everything:
        raise click.UsageError("name streams, or say --all")
    places = [None if where is None else place_of(where) for where in (start, stop)]
    export = Export(root, stream_names(root) if everything else streams, *places)
    to_file = output not in (None, "-")
    with tidied_up(), new_file(Path(str(output)).absolute(), force=force) if to_file else nullcontext() as file:
        write: Write = _to_output if file is None else file.out.write
        export.run(__version__, write, sinks=sinks)
        sys.stdout.flush()
        return _end(export, file)


def _to_output(lines: bytes) -> None:
    if sys.stdout.isatty():
        sys.stdout.write(safe(lines.decode()))
    else:
        sys.stdout.buffer.write(lines)


def _end(export: Export, file: NewFile | None) -> int:
    """Says what became of it; the exit code."""
    count = sum(export.records.values())
    written = f"{number(count)} records of {len(export.records)} streams written"
    if export.missed:
        remark(f"{number(export.missed)} records were trimmed while this went on")
    for note in export.notes:
        remark(note)
    if not export.failures:
        if file is not None:
            file.finish()
            remark(f"{written} to {file.path}")
        return Exit.WELL
    for failure in export.failures:
        remark(str(failure))
    where = "" if file is None else f" to {file.keep_partial()}"
    damaged = any(isinstance(failure, LogError) for failure in export.failures)
    advice = (
        ", what lies before the damage: `dq verify` names all of it, `dq repair --salvage` reads behind it" if damaged else ""
    )
    remark(f"{written}{where}{advice}")
    return max(map(code_of, export.failures))

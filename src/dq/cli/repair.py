"""`dq repair LOG`: what a person decides about a damaged log."""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import asdict

import click

from dq.cli.exits import Exit
from dq.cli.options import as_json, examples
from dq.cli.output import json_line, safe
from dq.mend import repair as mend
from dq.mend.repair import Repair
from dq.mend.salvage import Salvage, salvage

_POSITION_MAX = (1 << 62) - 1


@click.command(
    epilog=examples(
        "dq repair queue_data/streams/emails/0/00000000000000000000.jsonl --truncate-at 10240 --dry-run",
        "dq repair queue_data/streams/emails/0 --salvage emails.jsonl",
        "dq repair queue_data/streams/emails --accept-loss",
    )
)
@click.argument("log", metavar="LOG")
@click.option(
    "--truncate-at",
    type=click.IntRange(0, _POSITION_MAX),
    metavar="BYTE",
    help="End the log at this byte of the segment LOG; what follows, newer segments too, goes to quarantine.",
)
@click.option(
    "--salvage",
    "target",
    metavar="OUT",
    help="Write all records that can be read to a new file OUT (-: standard output), as JSON lines.",
)
@click.option("--accept-loss", is_flag=True, help="Let the sinks of the stream LOG, which lost its end, go back there.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@as_json
def command(log: str, truncate_at: int | None, target: str | None, accept_loss: bool, dry_run: bool, as_json: bool) -> int:
    """Mends the damaged LOG: a segment's file, or the directory of a bucket, a stream or a sink.

    Nothing is destroyed: what is taken out of a log is kept in quarantine, and each repair is written down there, in
    repairs.jsonl. The broker of the directory must be stopped, but for --salvage. `dq verify` says which log is damaged, where,
    and with which of these it can be mended.
    """
    if (truncate_at is not None) + (target is not None) + accept_loss != 1:
        raise click.UsageError("choose one of --truncate-at, --salvage and --accept-loss")
    if target is not None:
        return _salvage(log, target, as_json=as_json)
    done = mend.accept_loss(log, dry_run=dry_run) if truncate_at is None else mend.truncate(log, truncate_at, dry_run=dry_run)
    if as_json:
        json_line(asdict(done))
    else:
        _tell(done)
    return Exit.WELL


def _tell(done: Repair) -> None:
    would = "would be " if done.dry_run else ""
    ends = ", ".join(str(end) for end in done.ends)
    if done.cut_bytes:
        print(f"{done.log}: {done.cut_bytes:,} bytes {would}moved to quarantine; it ends at offset {ends}")
    elif not done.accepted:
        print(f"{done.log}: nothing to do, it ends there")
    else:
        print(f"{done.log}: it ends at offset {ends}; sinks beyond that {would or 'are '}let go back to it at the next start")
    for path in done.kept:
        print(f"  kept: {path}")


def _salvage(log: str, target: str, *, as_json: bool) -> int:
    if target == "-":
        saved = _salvage_to_output(log)
    else:
        with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            saved = salvage(log, out)
    if as_json and target != "-":
        json_line(asdict(saved))
        return Exit.WELL
    print(
        f"{saved.verified:,} records verified, {saved.unverified:,} unverified, {saved.unreadable_bytes:,} bytes not readable",
        file=sys.stderr,
    )
    return Exit.WELL


def _salvage_to_output(log: str) -> Salvage:
    """To a pipe as it is; to a terminal so that no record steers it."""
    if not sys.stdout.isatty():
        saved = salvage(log, sys.stdout.buffer)
    else:
        with tempfile.TemporaryFile() as out:
            saved = salvage(log, out)
            out.seek(0)
            for each in out:
                sys.stdout.write(safe(each.decode("utf-8", "backslashreplace")))
    sys.stdout.flush()
    return saved

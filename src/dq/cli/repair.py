"""`python -m dq.main repair LOG`: what a person decides about a damaged log."""

from __future__ import annotations

import argparse
import os
import sys

from dq.cli.arguments import Parser, whole_number
from dq.cli.exits import Exit
from dq.mend.repair import Repair, accept_loss, truncate
from dq.mend.salvage import salvage

_DESCRIPTION = """\
Mends a log that is damaged. Nothing is destroyed: what is taken out of a log is kept in
quarantine, and each repair is written down there, in repairs.jsonl. The broker of the
directory must be stopped, but for --salvage.
"""
_EPILOG = """\
examples:
  repair queue_data/streams/emails/0/00000000000000000000.jsonl --truncate-at 10240 --dry-run
  repair queue_data/streams/emails/0 --salvage emails.jsonl
  repair queue_data/streams/emails --accept-loss
`python -m dq.main verify` says which log is damaged, where, and with which of these it can be mended.
"""
_POSITION_MAX = (1 << 62) - 1


def run(arguments: list[str]) -> int:
    """Mends, or says what it would do; returns how it ended."""
    given = _parser().parse_args(arguments)
    if given.salvage is not None:
        return _salvage(given.log, given.salvage)
    if given.accept_loss:
        _tell(accept_loss(given.log, dry_run=given.dry_run))
    else:
        _tell(truncate(given.log, given.truncate_at, dry_run=given.dry_run))
    return Exit.WELL


def _parser() -> Parser:
    parser = Parser(
        prog="python -m dq.main repair",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("log", metavar="LOG", help="a segment's file, or the directory of a bucket, a stream or a sink")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--truncate-at",
        type=whole_number(0, _POSITION_MAX),
        metavar="BYTE",
        help="end the log at this byte of the segment LOG; what follows, newer segments too, goes to quarantine",
    )
    what.add_argument(
        "--salvage",
        metavar="OUT",
        help="write all records that can be read to a new file OUT (-: standard output), as JSON lines",
    )
    what.add_argument(
        "--accept-loss",
        action="store_true",
        help="let the sinks of the stream LOG, which lost its end, go back to where it ends now",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    return parser


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


def _salvage(log: str, target: str) -> int:
    if target == "-":
        saved = salvage(log, sys.stdout.buffer)
        sys.stdout.flush()
    else:
        with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            saved = salvage(log, out)
    print(
        f"{saved.verified:,} records verified, {saved.unverified:,} unverified, {saved.unreadable_bytes:,} bytes not readable",
        file=sys.stderr,
    )
    return Exit.WELL

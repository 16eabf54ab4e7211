"""`python -m dq.main verify [DIR]`: checks every log of a data directory and changes nothing."""

from __future__ import annotations

import orjson

from dq.cli.arguments import Parser
from dq.cli.exits import Exit
from dq.client.place import root_of
from dq.mend.verify import LogCheck, Verification, verify

_EPILOG = "It exits with 0 if all logs can be opened (a torn end is none the worse), with 65 if one is damaged or newer."


def run(arguments: list[str]) -> int:
    """Prints what was found; returns how it ended."""
    parser = Parser(
        prog="python -m dq.main verify",
        description="Reads every log of a data directory as a start of the broker would, and changes nothing.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "directory",
        nargs="?",
        metavar="DIR",
        help="the data directory, or an embedded queue's (default: $DQ_DIR, else queue_data, looked for)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args(arguments)
    found = verify(root_of(given.directory))
    if given.json:
        print(orjson.dumps(found.to_dict()).decode())
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

"""`python -m dq.main`: the demonstration."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from dq.cli.arguments import Parser, whole_number
from dq.demo.run import Options, run_demo
from dq.demo.source import default_data
from dq.demo.step import run_step

_PROCESSES_MAX = 64
_EPILOG = """\
other commands:
  serve [DIR]           run a broker in the foreground
  events [DIR] [-f]     the envelopes that pass its processes, live
  verify [DIR]          check every log of a data directory, and change nothing
  repair LOG            mend a damaged log, or save what can be read of it

It exits with 0 only if the totals agree and nothing is lost; with 1 if not, 2 for
wrong arguments, 75 if the directory is in use, 130 after Ctrl-C.
"""


def run(arguments: list[str]) -> int:
    """Parses the options and runs it."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.step:
        if given.json:
            parser.error("--step is for people: it has no --json")
        return run_step()
    if given.input is not None and given.input != "-" and not os.path.exists(given.input):
        parser.error(f"--input: there is no file or directory {given.input!r}")
    if not given.data:
        parser.error("--data: an empty path names no directory")
    return run_demo(
        Options(
            publishers=given.publishers,
            consumers=given.consumers,
            source=given.input,
            kill=not given.no_kill,
            as_json=given.json,
            data=Path(given.data),
        )
    )


def _parser() -> Parser:
    parser = Parser(
        prog="python -m dq.main",
        description="Shows the whole loop on real input: publisher processes, consumer processes, two of them killed.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    count = whole_number(1, _PROCESSES_MAX)
    parser.add_argument("--publishers", type=count, default=10, metavar="N", help="publisher processes (default: 10)")
    parser.add_argument("--consumers", type=count, default=5, metavar="N", help="consumer processes (default: 5)")
    parser.add_argument(
        "--input",
        metavar="DIR|FILE|-",
        help="a directory: each of its .py files is a task; a file, or - for standard input: each line is a task, and its "
        "words are counted (default: the standard library of this Python, without its tests)",
    )
    parser.add_argument("--no-kill", action="store_true", help="kill nobody")
    parser.add_argument(
        "--step", action="store_true", help="a walk for who wants to learn: act by act, with each envelope that it causes"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end, and nothing else")
    parser.add_argument(
        "--data",
        default=str(default_data()),
        metavar="DIR",
        help="where the log goes; emptied at the next run (default: %(default)s)",
    )
    return parser

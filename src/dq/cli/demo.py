"""`dq demo`, and `python -m dq.main` without a command: the demonstration."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import click

from dq.cli.log_options import log_options
from dq.cli.options import examples
from dq.demo.run import Options, run_demo
from dq.demo.source import default_data
from dq.demo.step import run_step
from dq.operator_logs import LogWish

_COUNT = click.IntRange(1, 64)


@click.command(
    epilog=examples(
        "dq demo",
        "dq demo --step",
        "cat words.txt | dq demo --input - --json",
    )
)
@click.option("--publishers", type=_COUNT, default=10, metavar="N", help="Publisher processes (default: 10).")
@click.option("--consumers", type=_COUNT, default=5, metavar="N", help="Consumer processes (default: 5).")
@click.option(
    "--input",
    "source",
    metavar="DIR|FILE|-",
    help="A directory: each of its .py files is a task; a file, or - for standard input: each line is a task, and its "
    "words are counted (default: the standard library of this Python, without its tests).",
)
@click.option("--no-kill", is_flag=True, help="Kill nobody.")
@click.option("--step", is_flag=True, help="A walk for who wants to learn: act by act, with each envelope that it causes.")
@log_options(logging.ERROR)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end, and nothing else.")
@click.option(
    "--data",
    default=lambda: str(default_data()),
    show_default="a directory of its own",
    metavar="DIR",
    help="Where the log goes; emptied at the next run.",
)
def command(
    publishers: int, consumers: int, source: str | None, no_kill: bool, step: bool, as_json: bool, data: str, logs: LogWish
) -> int:
    """Shows the whole loop on real input: publisher processes, consumer processes, two of them killed.

    It exits with 0 only if the totals agree and nothing is lost; with 1 if not, 2 for wrong arguments, 75 if the directory is
    in use, 130 after Ctrl-C.
    """
    if step:
        if as_json:
            raise click.UsageError("--step is for people: it has no --json")
        return run_step(logs)
    if source is not None and source != "-" and not os.path.exists(source):
        raise click.UsageError(f"--input: there is no file or directory {source!r}")
    if not data:
        raise click.UsageError("--data: an empty path names no directory")
    return run_demo(
        Options(
            publishers=publishers,
            consumers=consumers,
            source=source,
            kill=not no_kill,
            as_json=as_json,
            data=Path(data),
            logs=logs,
        )
    )

"""`dq serve [DIR]`: a broker in the foreground."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import click

from dq import operator_logs
from dq.broker.life import open_missing_streams
from dq.broker.manager import Manager
from dq.cli.exits import Exit
from dq.cli.log_options import failing_in_log, log_options, say_or_log
from dq.cli.options import as_json, directory, examples, flags
from dq.cli.output import json_line
from dq.operator_logs import LogWish
from dq.settings.values import Settings, settings_of


@click.command(
    epilog=examples("dq serve", "dq serve /var/lib/mails", "dq serve --set durability=interval --set log_level=debug")
)
@directory
@flags
@click.option("--metrics-port", type=click.IntRange(1, 65_535), metavar="PORT", help="Answer Prometheus at this port.")
@click.option("--metrics-address", default="127.0.0.1", metavar="ADDRESS", help="Where that is (default: 127.0.0.1).")
@as_json
@log_options(logging.INFO)
def command(
    root: Path, flags: tuple[str, ...], metrics_port: int | None, metrics_address: str, as_json: bool, logs: LogWish
) -> int:
    """Runs the broker of a data directory in the foreground, until Ctrl-C or SIGTERM. Makes the directory if there is none.

    Its settings are those of dq.toml in the directory, of DQ_* variables and of --set, as `dq config` shows them. They are read
    now, and no more while it runs.
    """
    if metrics_port is not None:
        flags = (*flags, f"metrics_port={metrics_port}")
    settings = settings_of(root, flags, strict=True)
    open_missing_streams()
    operator_logs.begin("manager", logs)
    operator_logs.dump_stacks_at_signal()
    manager = Manager(root, logs.level, log_format=logs.form, settings=settings)
    manager.on_ready = lambda: _say_ready(manager, as_json=as_json)
    with failing_in_log(), _exporter(root, settings, metrics_address):
        manager.start()
        code = manager.run()
    if manager.failure is not None:
        say_or_log(manager.failure["message"])
        return int(code) or Exit.FAILED
    return int(code)


def _exporter(root: Path, settings: Settings, address: str) -> AbstractContextManager[object]:
    """What answers Prometheus, if that is wished. It has its port before anything else is begun."""
    port = settings["metrics_port"]
    if port is None:
        return nullcontext()
    from dq.cli.exporter import Exporter

    return Exporter(root, int(port), address)


def _say_ready(manager: Manager, *, as_json: bool) -> None:
    try:
        if as_json:
            json_line({"root": str(manager.root), "pid": os.getpid()})
            sys.stdout.flush()
        else:
            print(f"dq serves {manager.root} (pid {os.getpid()}); Ctrl-C stops it", flush=True)
    except OSError:
        # Nobody reads it, or the disk it goes to is full. That is no reason not to serve, nor to fail once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

"""`dq serve [DIR]`: a broker in the foreground."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import click

from dq import operator_logs
from dq.broker.life import open_missing_streams
from dq.broker.manager import Manager
from dq.cli.exits import Exit
from dq.cli.log_options import failing_in_log, log_options, say_or_log
from dq.cli.options import directory, examples
from dq.operator_logs import LogWish


@click.command(epilog=examples("dq serve", "dq serve /var/lib/mails"))
@directory
@log_options(logging.INFO)
def command(root: Path, logs: LogWish) -> int:
    """Runs the broker of a data directory in the foreground, until Ctrl-C or SIGTERM."""
    open_missing_streams()
    operator_logs.begin("manager", logs)
    operator_logs.dump_stacks_at_signal()
    manager = Manager(root, logs.level, log_format=logs.form)
    manager.on_ready = lambda: _say_ready(manager)
    with failing_in_log():
        manager.start()
        code = manager.run()
    if manager.failure is not None:
        say_or_log(manager.failure["message"])
        return int(code) or Exit.FAILED
    return int(code)


def _say_ready(manager: Manager) -> None:
    try:
        print(f"dq serves {manager.root} (pid {os.getpid()}); Ctrl-C stops it", flush=True)
    except OSError:
        # Nobody reads it, or the disk it goes to is full. That is no reason not to serve, nor to fail once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

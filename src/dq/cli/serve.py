"""`dq serve [DIR]`: a broker in the foreground."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import click

from dq.broker.life import open_missing_streams
from dq.broker.manager import Manager
from dq.cli.exits import Exit
from dq.cli.options import directory, examples


@click.command(epilog=examples("dq serve", "dq serve /var/lib/mails"))
@directory
def command(root: Path) -> int:
    """Runs the broker of a data directory in the foreground, until Ctrl-C or SIGTERM."""
    open_missing_streams()
    logging.basicConfig(level=logging.INFO, format="dq %(process)d %(levelname)s %(message)s")
    manager = Manager(root, logging.INFO)
    manager.on_ready = lambda: _say_ready(manager)
    manager.start()
    code = manager.run()
    if manager.failure is not None:
        print(f"dq: {manager.failure['message']}", file=sys.stderr)
        return int(code) or Exit.FAILED
    return int(code)


def _say_ready(manager: Manager) -> None:
    try:
        print(f"dq serves {manager.root} (pid {os.getpid()}); Ctrl-C stops it", flush=True)
    except OSError:
        # Nobody reads it, or the disk it goes to is full. That is no reason not to serve, nor to fail once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

"""`python -m dq.main serve [DIR]`: a broker in the foreground."""

from __future__ import annotations

import logging
import os
import sys

from dq.broker.life import open_missing_streams
from dq.broker.manager import Manager
from dq.cli.arguments import Parser
from dq.cli.exits import Exit
from dq.client.place import root_of


def run(arguments: list[str]) -> int:
    """Serves until Ctrl-C or SIGTERM; returns how it ended."""
    parser = Parser(prog="python -m dq.main serve", description="Runs the broker of a data directory in the foreground.")
    parser.add_argument(
        "directory", nargs="?", metavar="DIR", help="the data directory (default: $DQ_DIR, else queue_data, looked for upwards)"
    )
    given = parser.parse_args(arguments)
    root = root_of(given.directory)
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

"""`dq stop`: ends the broker of a data directory."""

from __future__ import annotations

import time
from pathlib import Path

import click

from dq.cli.exits import Exit
from dq.cli.options import Span, as_json, directory, examples
from dq.cli.output import one_line, outcome, remark
from dq.client.broker import Broker
from dq.config import LIMITS
from dq.log.layout import Layout
from dq.log.locks import holder, is_held
from dq.model.event import EventType

_MARGIN_SECONDS = 2.0


@click.command(epilog=examples("dq stop", "dq stop /var/lib/mails --timeout 3s"))
@directory
@click.option(
    "--timeout",
    type=Span(),
    default=LIMITS.stop_seconds,
    help="What is left after so long is killed (default and at most: 10 s).",
)
@as_json
def command(root: Path, timeout: float, as_json: bool) -> int:
    """Stops the broker in order: what has arrived is committed and answered, the sinks are flushed. Returns once it is gone."""
    with Broker(root) as broker:
        pid = broker.manager_pid
        broker.ask(EventType.SHUTDOWN, {"seconds": timeout})
    deadline = time.monotonic() + timeout + _MARGIN_SECONDS
    lock = Layout(root).manager_lock
    while is_held(lock) and holder(lock) == str(pid):  # else another one serves the directory by now
        if time.monotonic() > deadline:
            remark(f"the broker (pid {pid}) has not ended yet")
            return Exit.FAILED
        time.sleep(0.02)
    outcome({"root": str(root), "pid": pid}, f"the broker of {one_line(root)} (pid {pid}) has stopped", as_json=as_json)
    return Exit.WELL

"""`dq work MODULE:APP`: runs the handlers of an app, in this process or in several that are watched over."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import click

from dq import operator_logs
from dq.app.application import App
from dq.app.importing import said_of
from dq.cli.exits import Exit
from dq.cli.log_options import again, failing_in_log, log_options
from dq.cli.options import DataDirectory, examples, start_broker
from dq.cli.reach import reached
from dq.cli.work_crew import Crew
from dq.cli.work_target import load
from dq.client.place import root_of
from dq.errors import BrokerNotRunning, DqError
from dq.model.told import about
from dq.operator_logs import LogWish

log = logging.getLogger("dq")
_LOOK_SECONDS = 0.2
_PROCESSES_MAX = 256


@click.command(epilog=examples("dq work tasks:app", "dq work shop.tasks:app --processes 4", "dq work tasks:app --burst"))
@click.argument("target", metavar="MODULE:APP")
@click.option("--processes", type=click.IntRange(1, _PROCESSES_MAX), help="So many processes, each started again if it ends.")
@click.option("--burst", is_flag=True, help="End once all is done.")
@click.option("--sink", metavar="NAME", help="In place of the app's sink.")
@click.option("-d", "--data", "root", type=DataDirectory(), help="In place of the app's data directory.")
@start_broker
@log_options(logging.INFO)
@click.option("--member", type=int, hidden=True)
def command(
    target: str,
    processes: int | None,
    burst: bool,
    sink: str | None,
    root: Path | None,
    start_broker: str,
    member: int | None,
    logs: LogWish,
) -> int:
    """Runs the handlers of the App named APP in the module MODULE, which is looked for here first.

    SIGTERM or Ctrl-C ends it in order: no new task is begun, what is in flight is waited for. A second one ends it at once.
    """
    if processes is not None and member is None:
        given = [("--sink", sink), ("--data", root)]
        options = [text for name, value in given if value is not None for text in (name, str(value))]
        options += ["--burst"] * burst + ([f"--{start_broker}"] if start_broker else []) + again(logs)
        operator_logs.begin("supervisor", logs)
        return Crew(target, processes, options).run()
    app = load(target)
    operator_logs.begin("app", logs)  # not before: an app that sets up logging itself keeps what it has
    operator_logs.dump_stacks_at_signal()
    with failing_in_log(), _moved(app, root, sink, start=start_broker):
        return _Work(app, member).run(burst=burst)


@contextlib.contextmanager
def _moved(app: App, root: Path | None, sink: str | None, *, start: str) -> Iterator[None]:
    """Has the app run over a broker that is there, or that is to be started if it was said so."""
    app.move(sink=sink)
    if app.has_engine and root is None:
        yield
        return
    try:
        broker = reached(root_of(root or app.place), start)
    except BrokerNotRunning as error:
        raise error if start else BrokerNotRunning(f"{error}, or say --start") from error
    with contextlib.closing(broker):
        app.move(broker)
        yield


class _Work:
    """One process that runs the app: in a thread, so that signals and its supervisor decide here when it ends."""

    def __init__(self, app: App, member: int | None) -> None:
        self._app, self._member = app, member
        self._failure: BaseException | None = None
        self._signals = 0

    def run(self, *, burst: bool) -> int:
        """Runs it to its end; the exit code."""
        thread = threading.Thread(target=self._run, args=(burst,), daemon=True, name="dq-app")
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._signalled)
        if self._member is not None:
            self._obey(os.dup(0))
            os.write(self._member, b"r")
            os.close(self._member)
        handlers = ", ".join(f"{each.name} of {', '.join(each.streams)}" for each in self._app.handlers.values())
        log.info(
            "works as %r on %s; %s",
            self._app.sink,
            handlers or "its recurring work",
            "until done" if burst else "Ctrl-C stops it",
            extra=about(sink=self._app.sink),
        )
        thread.start()
        while thread.is_alive():
            # A signal that another thread of this process was given wakes nobody here: its handler runs at the next look.
            thread.join(_LOOK_SECONDS)
        if isinstance(self._failure, DqError):
            raise self._failure
        if self._failure is not None:  # of an engine that is not ours
            raise click.ClickException(said_of(self._failure))
        return Exit.INTERRUPTED if self._signals > 1 else Exit.WELL

    def _run(self, burst: bool) -> None:
        try:
            self._app.run(burst=burst)
        except BaseException as error:
            self._failure = error

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        if self._member is not None:  # a service manager tells all processes, and then its supervisor tells it again
            self._signals = 1
        self._app.stop(now=self._signals > 1)

    def _obey(self, lifeline: int) -> None:
        """Does what the supervisor says on standard input, whose end is the supervisor's; handlers get an empty one."""
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)

        def listen() -> None:
            while True:
                said = os.read(lifeline, 64)
                self._app.stop(now=b"now" in said)
                if not said:
                    return

        threading.Thread(target=listen, daemon=True, name="dq-lifeline").start()
        sys.stdin = open(0, closefd=False)  # noqa: SIM115  # as long as the process

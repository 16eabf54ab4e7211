"""`dq consume STREAM --sink NAME`: a consumer for the shell."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from dq import operator_logs, tracing
from dq.cli.exits import Exit
from dq.cli.log_options import log_options
from dq.cli.options import Span, as_json, data, examples, start_broker
from dq.cli.output import remark
from dq.cli.reach import reached
from dq.cli.records import FORMAT_HELP, Printer, payload_text, printer
from dq.cli.trace_variables import variables_of
from dq.client.consumer import Consumer
from dq.client.task import Task
from dq.operator_logs import LogWish

_ERROR_CHARS = 400


@click.command(
    epilog=examples(
        "dq consume emails --sink mailers",
        "dq consume emails --sink mailers --exec './send.sh' --timeout 10s",
        "dq consume orders refunds --sink audit --json --count 100 | jq .payload",
    )
)
@click.argument("streams", nargs=-1, metavar="[STREAM]...")
@click.option("--sink", required=True, help="The sink: consumers of one name share its records.")
@data
@click.option("-n", "--count", type=click.IntRange(1), metavar="COUNT", help="End after so many.")
@click.option("--timeout", type=Span(), metavar="TIME", help="End when nothing came for so long (default: never).")
@click.option(
    "--exec",
    "program",
    metavar="CMD",
    help="Run CMD in a shell for each task, the payload on its input: exit code 0 acks, another retries.",
)
@click.option("--no-ack", is_flag=True, help="Only look: what was printed is given back at the end, no attempt burned.")
@click.option("--from", "start", metavar="WHERE", help="Where a new sink begins: oldest (default), newest, an id or a date.")
@click.option("--format", "form", metavar="FORMAT", help=FORMAT_HELP)
@start_broker
@log_options(logging.WARNING)
@as_json
def command(
    streams: tuple[str, ...],
    sink: str,
    root: Path,
    count: int | None,
    timeout: float | None,
    program: str | None,
    no_ack: bool,
    start: str | None,
    form: str | None,
    start_broker: str,
    as_json: bool,
    logs: LogWish,
) -> int:
    """Consumes SINK over these streams, or those that it has: prints a line for each task, and acks it once that is written.

    It exits with 3 if --timeout passed and nothing came at all. Ctrl-C and SIGTERM end it after the task at hand.
    """
    if program is not None and no_ack:
        raise click.UsageError("--exec acks by its exit code: it has no --no-ack")
    show = printer(form, json=as_json, plain=payload_text)
    operator_logs.begin("consumer", logs)
    with reached(root, start_broker, logs) as broker:
        consumer = Consumer(broker, *streams, sink=sink, idle_timeout=timeout, start=start, create=bool(streams))
        signal.signal(signal.SIGTERM, lambda _number, _frame: consumer.stop())
        with consumer:
            done = _look(consumer, show, count) if no_ack else _work(consumer, show, program, count)
    return Exit.WELL if done or timeout is None else Exit.NOTHING


def _work(consumer: Consumer, show: Printer, program: str | None, count: int | None) -> int:
    done = 0
    for task in consumer:
        if program is None:
            with task:
                _print(show(task))
        else:
            _run(task, program)
        done += 1
        if done == count:
            break
    return done


def _look(consumer: Consumer, show: Printer, count: int | None) -> int:
    """Prints what would come, and gives it back at the end."""
    seen: list[Task] = []
    try:
        for task in consumer:
            task.extend(60)  # it stays in hand until the end: else it would come again and again
            seen.append(task)
            _print(show(task))
            if len(seen) == count:
                break
    finally:
        for task in seen:
            task.release()
    return len(seen)


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _run(task: Task, program: str) -> None:
    about: dict[str, Any] = {
        "DQ_ID": task.id, "DQ_STREAM": task.stream, "DQ_SINK": task.sink, "DQ_ATTEMPT": str(task.attempt),
        "DQ_KEY": task.key or "", "DQ_TOPIC": task.topic or "", "DQ_NAME": task.name,
    }  # fmt: skip
    with task:
        about |= variables_of(task.headers if tracing.tracer is None else tracing.tracer.current())
        payload = task.payload if isinstance(task.payload, bytes) else payload_text(task).encode()
        # The command is of who typed this one.
        done = subprocess.run(  # noqa: S602
            program, shell=True, input=payload, env={**os.environ, **about}, check=False, stderr=subprocess.PIPE
        )
        sys.stderr.buffer.write(done.stderr)
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2][:_ERROR_CHARS]
            remark(f"{task.id}: {program!r} ended with {done.returncode} at attempt {task.attempt}; it comes again")
            task.retry(error=f"exit code {done.returncode}" + (f": {said}" if said else ""))

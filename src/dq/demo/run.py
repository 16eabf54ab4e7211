"""The course of a run, from the claim of its directory to the last page."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from dq.client.manager import BrokerManager
from dq.demo.crew import Crew
from dq.demo.direct import count_directly
from dq.demo.examine import total
from dq.demo.kills import BrokerKill, ConsumerKill, kill_consumer, kill_publisher_broker, unanswered
from dq.demo.orders import (
    PROBE,
    RESULTS,
    SPEED,
    TASKS,
    Call,
    Consume,
    Consumed,
    Published,
    PublishMany,
    PublishProbes,
    PublishTasks,
    Stop,
)
from dq.demo.page import show_page
from dq.demo.place import claim
from dq.demo.progress import Progress, View, Watch
from dq.demo.report import Report, Speed, Spread, spread_of
from dq.demo.results import Results
from dq.demo.source import Work, find_work
from dq.demo.view import WIDTH, watching
from dq.log.layout import Layout
from dq.operator_logs import LogWish

_SPREAD_SECONDS = 6.0
_SPREAD_TASKS_A_SECOND = 100
"""Until they are hurried, publishers spread the tasks over these seconds at most, so that the first kill falls amid them."""
_BEFORE_KILL = 10
"""Results that are awaited before the first kill, or a tenth of all."""
_PROBES = 200
_QUIET = LogWish(logging.ERROR)
"""Warnings would be of the kills."""
_PROBE_PAUSE_SECONDS = 0.02
_SPEED_SECONDS = 2.0
_LOST_AFTER_SECONDS = 3.0
_TERMINATED = 128 + signal.SIGTERM


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for."""

    publishers: int
    consumers: int
    source: str | None
    kill: bool
    as_json: bool
    data: Path
    logs: LogWish = _QUIET


@dataclass(frozen=True, slots=True)
class _Worked:
    """The tasks are done."""

    progress: Progress
    seconds: float
    sent: int
    calls: list[Call]
    result_calls: list[Call]
    consumer_kill: ConsumerKill | None
    broker_kill: BrokerKill | None


def run_demo(options: Options) -> int:
    """Runs it and shows it; returns the exit code.

    Raises:
        DqError, OSError: it cannot be run.
    """
    began = time.monotonic()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    work = find_work(options.source)  # before anything is drawn: standard input may be typed in
    claim(options.data)
    with terminated_in_order(), watching(console, silent=options.as_json) as view:
        report = _prepared(options, work, view, began)
    report = replace(report, all_seconds=time.monotonic() - began)
    if options.as_json:
        sys.stdout.write(json.dumps(report.to_json()) + "\n")
    else:
        show_page(console, report)
    sys.stdout.flush()
    return 1 if report.problems() else 0


def _prepared(options: Options, work: Work, view: View, began: float) -> Report:
    """The run between the start of the broker and its stop; whatever happens, all that was started is stopped."""
    view.begin(time.monotonic() - began, f"starting a broker in {_shown(options.data)}")
    broker = BrokerManager(options.data, log_level=options.logs.level, log_format=options.logs.form)
    crew = Crew(broker.root)
    results: Results | None = None
    try:
        for stream in (TASKS, RESULTS):
            broker.stream(stream, retention="forever")
        for stream in (PROBE, SPEED):  # nobody wants to look at these afterwards
            broker.stream(stream, keep_seconds=0, segment_bytes=16 << 20)
        results = Results(broker)
        return _course(options, Watch(broker, crew, results, view, work, began), work)
    finally:
        crew.send_home()
        if results is not None:
            results.stop()
        broker.stop()


def _course(options: Options, watch: Watch, work: Work) -> Report:
    crew = watch.crew
    watch.phase = f"starting the processes: {options.publishers} to publish, {options.consumers} to consume"
    for _ in range(options.publishers):
        crew.add_publisher()
    for _ in range(options.consumers):
        crew.add_consumer()
    crew.wait_ready(watch.look)
    worked = _do_tasks(options, watch, work)
    idle = _probe(watch)
    speed = _race(watch)
    crew.send_home()
    watch.begin("counting the same in one process")
    clock = time.monotonic()
    direct = count_directly(work)
    direct_seconds = time.monotonic() - clock
    results = list(watch.results.by_task.values())
    kill = worked.broker_kill
    return Report(
        work=work,
        publishers=options.publishers,
        consumers=options.consumers,
        sent=worked.sent,
        stored=worked.progress.published,
        handled=len(results),
        redelivered=worked.progress.redelivered,
        twice=len(watch.results.again),
        by_consumer=dict(Counter(result["consumer"] for result in results)),
        totals=total(results, work.figures),
        seconds=worked.seconds,
        direct=direct,
        direct_seconds=direct_seconds,
        to_receipt=spread_of([took for _, took in worked.calls]),
        to_handler=spread_of([result["began"] - result["published"] for result in results]),
        idle=idle,
        speed=speed,
        to_kill=options.kill,
        consumer_kill=worked.consumer_kill,
        broker_kill=kill,
        unanswered=None if kill is None else unanswered(kill, worked.calls + worked.result_calls),
        log=_shown(options.data),
        jq=f"jq -c '.payload // empty' {shlex.quote(_shown(Layout(options.data).bucket(RESULTS, 0)))}/*.jsonl",
        yours="uv run python -m dq.main --input .",
    )


def _do_tasks(options: Options, watch: Watch, work: Work) -> _Worked:
    """All tasks, with the kills among them."""
    crew, results, clock = watch.crew, watch.results, time.monotonic()
    watch.phase = "tasks"
    spread = min(len(work.payloads) / _SPREAD_TASKS_A_SECOND, _SPREAD_SECONDS) if options.kill else 0.0
    for place, worker in enumerate(crew.publishers):
        crew.tell([worker], PublishTasks(work.payloads[place :: len(crew.publishers)], spread))
    crew.tell(crew.consumers, Consume(TASKS))
    consumer_kill = broker_kill = None
    if options.kill:
        enough = min(_BEFORE_KILL, len(work.payloads) // 10)
        watch.until(lambda _: results.count >= enough)
        consumer_kill = kill_consumer(watch)
        if consumer_kill is not None:
            broker_kill = kill_publisher_broker(watch)
    watch.until(lambda _: crew.reported(crew.publishers))
    published = crew.take(crew.publishers, Published)
    sent = sum(report.count for report in published)
    progress = watch.until(_Finished(watch, sent))
    seconds = time.monotonic() - clock
    consumed = _stop_consumers(watch)
    return _Worked(
        progress,
        seconds,
        sent,
        [call for report in published for call in report.calls],
        [call for report in consumed for call in report.calls],
        consumer_kill,
        broker_kill,
    )


class _Finished:
    """Whether every task is settled and has its result. One that does not come is lost after a while, not awaited for ever."""

    def __init__(self, watch: Watch, sent: int) -> None:
        self._watch, self._sent = watch, sent
        self._settled_at: float | None = None

    def __call__(self, progress: Progress) -> bool:
        if progress.settled < self._sent:
            return False
        if self._settled_at is None:
            self._settled_at = self._watch.seconds
        return progress.results >= self._sent or self._watch.seconds - self._settled_at > _LOST_AFTER_SECONDS


def _probe(watch: Watch) -> Spread:
    """How long a record takes to a handler when nothing else is to be done."""
    crew = watch.crew
    watch.phase, watch.stream = "latency", PROBE
    count = max(_PROBES // len(crew.publishers), 1)
    _attach_consumers(watch)
    crew.tell(crew.publishers, PublishProbes(count, _PROBE_PAUSE_SECONDS))
    _drain(watch)
    return spread_of([wait for report in _stop_consumers(watch) for wait in report.waits])


def _race(watch: Watch) -> Speed:
    """As many records as go."""
    crew = watch.crew
    watch.phase, watch.stream = "speed", SPEED
    _attach_consumers(watch)
    crew.tell(crew.publishers, PublishMany(_SPEED_SECONDS))
    began = min(report.began for report in _drain(watch))
    consumed = _stop_consumers(watch)
    return Speed(sum(report.count for report in consumed), max(report.ended for report in consumed) - began)


def _attach_consumers(watch: Watch) -> None:
    """So that what is measured does not begin with their start."""
    watch.crew.tell(watch.crew.living, Consume(watch.stream))
    watch.until(lambda progress: all(line.joined or line.state == "killed" for line in progress.consumers))


def _drain(watch: Watch) -> list[Published]:
    """Waits until all that is published is settled."""
    crew = watch.crew
    watch.until(lambda _: crew.reported(crew.publishers))
    published = crew.take(crew.publishers, Published)
    count = sum(report.count for report in published)
    watch.until(lambda progress: progress.settled >= count)
    return published


def _stop_consumers(watch: Watch) -> list[Consumed]:
    crew = watch.crew
    crew.tell(crew.living, Stop())
    watch.until(lambda _: crew.reported(crew.living))
    return crew.take(crew.living, Consumed)


def _shown(path: Path) -> str:
    """Relative where it is below the current directory, as people write it."""
    with contextlib.suppress(ValueError):
        return os.fspath(path.absolute().relative_to(Path.cwd()))
    return os.fspath(path.absolute())


@contextlib.contextmanager
def terminated_in_order() -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does: everything that was started is stopped."""

    def leave(*_: object) -> NoReturn:
        raise SystemExit(_TERMINATED)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

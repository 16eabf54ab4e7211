"""The scripted run with one broker below strace, its history, and the check of what it left."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from history import Acked, Entry, Info, Invoke, Ok, Recv, check
from scripted_run import SINK, STREAM, is_given_up

from dq import BrokerManager, Consumer
from stage import Child, alive, kill, marked, until

HERE = Path(__file__).parent
BROKERS = ("PUBLISHER_BROKER", "CONSUMER_BROKER")
# What a broker does to its files, and the words by which it answers and tells.
CALLS = (
    "openat",
    "write",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "fdatasync",
    "fsync",
    "rename",
    "unlink",
    "ftruncate",
    "mkdir",
    "fallocate",
    "sendto",
    "sendmsg",
)
RUN_SECONDS = 60.0
_LINE = re.compile(r"(\d+) +(\w+)\((.*)")


def need_strace() -> None:
    """Skips where there is no strace; under CI there is one."""
    if shutil.which("strace") is None and os.environ.get("CI") != "true":
        pytest.skip("strace is not installed, by which this test makes system calls fail")


@dataclass
class Run:
    """What became of a scripted run.

    Attributes:
        history: of its publisher and its consumer.
        calls: by system call, how often the traced broker made it in one of its threads: the largest number there is.
        killed: whether strace killed the broker.
        complaints: errors that the clients met.
        unanswered: records whose publisher has no receipt.
        stats: the brokers' figures at the end.
        errors: what the processes wrote to their standard error.
    """

    history: list[Entry] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    killed: bool = False
    complaints: list[str] = field(default_factory=list)
    full: int = 0
    unanswered: set[str] = field(default_factory=set)
    waited: list[str] = field(default_factory=list)
    stats: dict[str, Any] = field(default_factory=dict)
    errors: str = ""

    def note(self, kind: str, *what: Any) -> None:
        if kind == "invoke":
            self.history.append(Invoke(what[0]))
            self.unanswered.update(what[0])
        elif kind == "ok":
            self.history.append(Ok("p", what[0], [(bucket, offset) for bucket, offset in what[1]], exact=False))
            self.unanswered.difference_update(what[0])
        elif kind == "recv":
            at, record, (bucket, offset), attempt, whole = what
            self.history.append(Recv(at, "c", record, (bucket, offset), attempt, whole))
        elif kind == "acked":
            self.history.append(Acked(what[0], "c", what[1]))
        elif kind == "full":
            self.full += 1
        elif kind == "waited":
            self.waited = what[0]
        elif kind == "stats":
            self.stats = what[0]
        elif kind == "info":
            self.complaints.append(what[0])


class ScriptedRun(Child):
    """The process of `scripted_run.py`."""

    def __init__(self, root: Path, env: dict[str, str]) -> None:
        self._start([sys.executable, str(HERE / "scripted_run.py"), str(root)], env, new_session=False)


def run_traced(place: Path, broker: str, options: list[str], seconds: float = 25.0) -> Run:
    """Runs the script in `place`/q with the first life of `broker` below strace.

    Raises:
        AssertionError: the script did not come to its end, or left a process behind.
    """
    trace, tracer, marker = place / "trace", place / "tracer", f"DQ_FAULT_RUN={os.getpid()}-{place.name}"
    # -D: the broker stays the child of its manager. With --seccomp-bpf, which is much faster, strace 6.1 injects no signals.
    quick = [] if any("signal=" in option for option in options) else ["--seccomp-bpf"]
    strace = " ".join(["strace -D -f -q -y -s 0 -o", str(trace), *quick, *options])
    tracer.write_text(f'#!/bin/sh\nexec {strace} {sys.executable} "$@"\n')
    tracer.chmod(0o700)
    path = os.pathsep.join([str(HERE), *sys.path])
    env = {"DQ_TRACED": broker, "DQ_TRACER": str(tracer), "PYTHONPATH": path, "DQ_SCRIPT_SECONDS": str(seconds)}
    env |= dict([marker.split("=")])
    run = Run()
    with ScriptedRun(place / "q", env) as script:
        try:
            said = script.hear_rest(RUN_SECONDS)
            for line in said:
                run.note(*line)
            assert said[-1:] == [["end"]], f"the script did not end well: {said[-3:]}\n{script.errors.decode()[-3_000:]}"
            assert script.wait(RUN_SECONDS) == 0, script.errors.decode()
        finally:
            script.close()
            left = [pid for pid in marked(marker) if not _goes(pid)]
            for pid in left:
                kill(pid)
        run.errors = script.errors.decode()
    assert not left, f"processes are left: {left}"
    for record in run.unanswered:
        run.history.append(Info([record]))
    run.calls, run.killed = _calls(trace)
    return run


def _goes(pid: int) -> bool:
    try:
        until(lambda: not alive(pid), 5.0)
    except AssertionError:
        return False
    return True


def _calls(trace: Path) -> tuple[Counter[str], bool]:
    """strace counts by thread: the calls that the busiest of them made."""
    made: defaultdict[str, Counter[str]] = defaultdict(Counter)
    text = trace.read_text() if trace.exists() else ""
    for line in text.splitlines():
        if match := _LINE.match(line):
            made[match[2]][match[1]] += 1
    return Counter({name: max(threads.values()) for name, threads in made.items()}), "killed by SIGKILL" in text


def places_in_data(place: Path, call: str) -> list[int]:
    """Which calls of a healthy run were of files in the data directory; the interpreter's own are not of interest."""
    counted: Counter[str] = Counter()
    found = set()
    for line in (place / "trace").read_text().splitlines():
        if (match := _LINE.match(line)) and match[2] == call:
            counted[match[1]] += 1
            if f"{place / 'q'}" in match[3]:
                found.add(counted[match[1]])
    return sorted(found)


def drain(place: Path, run: Run) -> None:
    """Starts anew on what is there, consumes all of it, and adds that to the history."""
    root = place / "q"
    with BrokerManager(root) as broker:
        with Consumer(broker, STREAM, sink=SINK, idle_timeout=0.05) as consumer:
            until(lambda: _drained(broker, consumer, run), 10.0, "all is settled")
        figures = broker.stats()
    assert figures["publisher_broker"]["restarts"] == figures["consumer_broker"]["restarts"] == 0


def _drained(broker: BrokerManager, consumer: Consumer, run: Run) -> bool:
    stats = broker.stats()
    shards = stats["consumer_broker"]["sinks"][SINK]["shards"]
    ends = stats["publisher_broker"]["streams"][STREAM]["ends"]
    if all(shards.get(f"{STREAM}/{bucket}", {}).get("floor") == end for bucket, end in enumerate(ends)):
        return True
    for task in consumer:
        record = task.payload["id"]
        run.history.append(Recv(time.monotonic_ns(), "d", record, (task.bucket, task.offset), task.attempt, True))
        if is_given_up(record):
            task.dead_letter("bad")
        else:
            task.ack()
    return False


def check_run(place: Path, run: Run) -> None:
    """All that was said is true, and what is on disk can be read by anybody."""
    assert not run.waited, f"these never came: {run.waited}; {run.complaints}\n{run.errors[-3_000:]}"
    drain(place, run)
    verdict = check(run.history)
    assert verdict.faults == {}, f"{verdict.faults}; {run.complaints}"
    segments = sorted((place / "q").glob("streams/*/*/*.jsonl")) + sorted((place / "q").glob("sinks/*/*.jsonl"))
    done = subprocess.run(["jq", "-c", ".", *map(str, segments)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    letters = dead_letters(place / "q")
    received = {entry.id for entry in run.history if isinstance(entry, Recv)}
    assert sorted(letters) == sorted(record for record in received if is_given_up(record)), "each dead letter stands once"
    left = [str(path) for path in (place / "q").rglob("*") if path.name.endswith((".tmp", ".making", ".gone"))]
    assert not [path for path in left if "/quarantine/" not in path]


def dead_letters(root: Path) -> list[str]:
    found = []
    for segment in sorted((root / "streams" / f"{STREAM}-dlq" / "0").glob("*.jsonl")):
        lines = [orjson.loads(line) for line in segment.read_bytes().splitlines()]
        found += [line["payload"]["id"] for line in lines if "payload" in line]
    return found

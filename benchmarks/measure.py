"""What all figures share: the record, processes and their end, the broker under test, rows of the table."""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson

from dq import BrokerManager
from dq.bench.processes import LATEST_SECONDS as LATEST_SECONDS
from dq.bench.processes import Counters as Counters
from dq.bench.processes import Worker as Worker
from dq.bench.processes import broker_pids as broker_pids
from dq.bench.processes import kill as kill
from dq.bench.processes import percentile as percentile
from dq.bench.processes import running as running
from dq.bench.processes import slot as slot
from dq.bench.processes import workers as workers

RECORD_BYTES = 210
BODY = "x" * 139  # makes the stored line of a record 210 bytes, its newline included
LINE = orjson.OPT_APPEND_NEWLINE


def payload(n: int) -> dict[str, Any]:
    """The payload of record `n`."""
    return {"to": "a@b.c", "n": n, "body": BODY}


def handle(payload: dict[str, Any]) -> int:
    """The user's code of every figure, of dq and of the floor."""
    return payload["n"]


# --- figures -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of the table.

    Attributes:
        name: for `--only`; several rows may have the same.
        what, unit: for people.
        runs, reference_runs: what was measured, alternating; each is shown by its median.
        reference: what the reference is; "" where the target is a value by itself.
        sense: whether the target is a floor or a ceiling.
        target: for the ratio to the reference, or for the value where there is none.
        notes: more that was seen.
    """

    name: str
    what: str
    unit: str
    runs: Sequence[float]
    sense: Literal[">=", "<="]
    target: float
    reference: str = ""
    reference_runs: Sequence[float] = ()
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def measured(self) -> float:
        return statistics.median(self.runs)

    @property
    def beside(self) -> float | None:
        return statistics.median(self.reference_runs) if self.reference_runs else None

    @property
    def ratio(self) -> float | None:
        return self.measured / self.beside if self.beside else None

    @property
    def judged(self) -> float:
        return self.measured if self.ratio is None else self.ratio

    @property
    def met(self) -> bool:
        return self.judged >= self.target if self.sense == ">=" else self.judged <= self.target

    @property
    def missed_by(self) -> float:
        """By which part of the target it is missed; 0 where it is met."""
        return 0.0 if self.met else abs(self.judged / self.target - 1)

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name, "what": self.what, "unit": self.unit, "measured": self.measured, "runs": list(self.runs),
            "reference": self.reference, "reference_value": self.beside, "reference_runs": list(self.reference_runs),
            "ratio": self.ratio, "target": self.target, "sense": self.sense, "met": self.met, "missed_by": self.missed_by,
            "notes": self.notes,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bench:
    """How a run is to be done: where, how often, how large."""

    root: Path
    runs: int = 5
    scale: float = 1.0

    def records(self, full: int, least: int = 500) -> int:
        """A number of records, scaled, in whole batches of 500."""
        return max(int(full * self.scale) // 500 * 500, least)

    def times(self, full: int, least: int = 5) -> int:
        """How often something is done that takes its time whatever the scale; never more often than `full`."""
        return max(int(full * min(self.scale, 1.0)), least)

    def seconds(self, full: float) -> float:
        """A duration, scaled; not so short that nothing happens in it."""
        return max(full * min(self.scale, 1.0), 0.2)

    @contextlib.contextmanager
    def directory(self, name: str) -> Iterator[Path]:
        """An empty directory, gone afterwards."""
        path = self.root / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    @property
    def callers(self) -> int:
        """How many wait at the same time; a smoke test does with fewer."""
        return 64 if self.scale >= 0.1 else 4

    def remove(self) -> None:
        """The root, unless somebody else's files are in it."""
        with contextlib.suppress(OSError):
            self.root.rmdir()

    @contextlib.contextmanager
    def broker(self, name: str = "dq") -> Iterator[BrokerManager]:
        """A broker of its own in an empty directory; its three processes are ended, and the directory is gone, afterwards."""
        with self.directory(name) as path, running(path) as broker:
            yield broker


def memory_mb(pid: int) -> dict[str, float]:
    """Resident now, at its peak, and its proportional share, in MB (10^6 bytes)."""
    wanted = {"VmRSS": "rss", "VmHWM": "peak", "Pss": "pss"}
    found: dict[str, float] = {}
    for file in ("status", "smaps_rollup"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
                name, _, size = line.partition(":")
                if name in wanted:
                    found[wanted[name]] = int(size.split()[0]) * 1024 / 1e6
    return found


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used, in user code and in the kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def say(text: str) -> None:
    """Progress, for people."""
    print(text, file=sys.stderr, flush=True)

"""What the system tells of a process, by its number: since when it runs, and what it has used."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple


class Usage(NamedTuple):
    """One process.

    Attributes:
        age: for how many seconds it has been running. It tells it from others, to which its number is given later.
        cpu_seconds: of a processor, that it has used.
        resident_bytes: memory that it has.
    """

    age: float
    cpu_seconds: float
    resident_bytes: int


def usage_of(pid: int) -> Usage | None:
    """Of a process; None where the system does not say, or it is not there.

    Source: proc_pid_stat(5), fields 14, 15, 22 (in ticks) and 24 (in pages). The name before them may hold anything.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        tick = os.sysconf("SC_CLK_TCK")
        age = max(time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / tick, 0.0)
        return Usage(age, (int(fields[11]) + int(fields[12])) / tick, int(fields[21]) * os.sysconf("SC_PAGE_SIZE"))
    except (OSError, ValueError, IndexError, AttributeError):  # the last: a system without that clock
        return None

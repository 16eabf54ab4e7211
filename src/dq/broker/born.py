"""When a process began: with its number that names it for good, as the number alone is given to others later."""

from __future__ import annotations

import os
import time
from pathlib import Path


def age_of(pid: int) -> float | None:
    """For how many seconds a process has been running; None where the system does not say, or it is not there.

    Source: proc_pid_stat(5), field 22, in ticks since the system was started. The name before it may hold anything.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        ticks = int(stat.rpartition(b")")[2].split()[19])
        return max(time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"), 0.0)
    except (OSError, ValueError, IndexError, AttributeError):  # the last: a system without that clock
        return None

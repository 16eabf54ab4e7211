"""What a benchmark is run on. `benchmarks/` uses this too."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any


def machine(directory: Path) -> dict[str, Any]:
    """Processor, cores, Python, system, the file system of a directory, and how busy it was before."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()}",
        "filesystem": _filesystem(directory),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # no Linux
        pass
    return platform.processor() or platform.machine() or "unknown"


def _filesystem(directory: Path) -> str:
    """Type and device of the longest mount point that holds the directory."""
    path, best = str(directory.resolve()), ("", "unknown")
    try:
        mounts = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        mounts = []
    for line in mounts:
        device, point, kind = line.split()[:3]
        if (path == point or path.startswith(point.rstrip("/") + "/")) and len(point) >= len(best[0]):
            best = (point, f"{kind} on {device}")
    return best[1]


def is_memory(filesystem: str) -> bool:
    """Whether a sync costs nothing there, so that no figure means anything."""
    return filesystem.startswith(("tmpfs", "ramfs"))

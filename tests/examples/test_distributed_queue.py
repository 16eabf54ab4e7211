"""`examples/distributed_queue.py` runs, and shows what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[2] / "examples" / "distributed_queue.py"


def test_the_distributed_queue_from_end_to_end(tmp_path: Path) -> None:
    """P5, P6: producers and ranked consumers in processes of their own, one of which is killed and goes on at its offsets."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path)], capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "consumer 0 was killed when it had seen" in done.stdout
    assert "600 of 600 orders of 21 customers" in done.stdout
    assert "each counted once: True" in done.stdout
    assert "each customer's in order: True" in done.stdout

"""The README's examples run, and what it says of commands is so."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dq

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.S)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_of_the_readme_runs(number: int, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(EXAMPLES[number])
    environment = {name: value for name, value in os.environ.items() if name != "DQ_DIR"}
    # Into files: a broker that stays for a while has the standard error of its script, and a pipe would end with it only.
    with (tmp_path / "output").open("w+") as output, (tmp_path / "errors").open("w+") as errors:
        done = subprocess.run(
            [sys.executable, str(script)], cwd=tmp_path, stdout=output, stderr=errors, timeout=60, env=environment, check=False
        )
        end_broker(tmp_path / "queue_data")
        output.seek(0)
        errors.seek(0)
        assert done.returncode == 0, errors.read()
        assert output.read(), "an example shows something"


def end_broker(root: Path) -> None:
    """Ends a broker that would wait for more clients."""
    with contextlib.suppress(dq.BrokerNotRunning), dq.connect(root) as broker:
        broker.ask(dq.EventType.SHUTDOWN, {})


def test_the_readme_has_the_two_commands() -> None:
    assert "python3 -m pip install uv && uv run python -m dq.main" in README
    assert "python3 -m pip install uv && uv run pytest" in README


def test_the_readme_names_every_durable_promise() -> None:
    for promise in ("survives `kill -9`", "at least once", "stored whole or not at all", "never silently shortened"):
        assert promise in README

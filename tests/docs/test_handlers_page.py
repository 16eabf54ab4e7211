"""The examples of `docs/handlers.md` run, and its table of numbers is that of `AppConfig`."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from test_readme import end_broker

from dq.app import AppConfig

PAGE = (Path(__file__).parents[2] / "docs" / "handlers.md").read_text()
EXAMPLES = [example for example in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "processes=" not in example]

# `print` writes its parts one by one, and threads print here.
WHOLE_LINES = 'import builtins, sys; builtins.print = lambda *said: sys.stdout.write(" ".join(map(str, said)) + "\\n")\n'


def test_the_examples_of_the_page_run_one_after_the_other(tmp_path: Path) -> None:
    # Into files: a broker that stays for a while has the standard error of its script, and a pipe would end with it only.
    with (tmp_path / "output").open("w+") as output, (tmp_path / "errors").open("w+") as errors:
        script = WHOLE_LINES + "\n".join(EXAMPLES)
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, stdout=output, stderr=errors, timeout=60, check=False
        )
        end_broker(tmp_path / "queue_data")
        output.seek(0)
        errors.seek(0)
        shown = output.read()
        assert done.returncode == 0, errors.read()
    assert len(EXAMPLES) == 3
    assert Counter(shown.splitlines()) == Counter(
        [
            "send ada attempt 1", "send busy attempt 1", "send busy attempt 2", "send busy attempt 3", "send nobody attempt 1",
            "send nobody attempt 1", "discarded 1", "replayed 1",
            "count ada", "count busy", "count nobody", "count eve", "count bob",
            "post.send mails/0/2 there is no such address",
            "post.send mails/0/3 the payload does not fit handler 'send': Expected `int`, got `str` - at `$.copies`",
            "add 1", "add 2",
        ]
    )  # fmt: skip


def test_the_numbers_of_the_page_are_those_of_the_configuration() -> None:
    """H10."""
    rows = re.findall(r"^\| `(\w+)` \| ([\d.,]+)(?: s)? \|", PAGE, re.M)
    assert {name: float(number.replace(",", "")) for name, number in rows} == asdict(AppConfig())

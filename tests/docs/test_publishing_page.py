"""The examples of `docs/publishing.md` run, and show what the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "publishing.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.S)


def test_the_examples_of_the_page_run_one_after_the_other(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(EXAMPLES)], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    shown = done.stdout
    assert len(EXAMPLES) == 4
    assert shown.startswith("reminders-later/0/0\nreminders-later/0/1\nat once None\nin a while 20")
    assert "\nTrue\nmails/2/0\nin time 20" in shown
    assert shown.endswith("\n1 expired\n")

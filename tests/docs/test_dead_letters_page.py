"""The example of `docs/dead_letters.md` runs, and shows what the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from test_readme import end_broker

PAGE = (Path(__file__).parents[2] / "docs" / "dead_letters.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.S)


def test_the_example_of_the_page_runs(tmp_path: Path) -> None:
    [example] = EXAMPLES
    with (tmp_path / "output").open("w+") as output, (tmp_path / "errors").open("w+") as errors:
        done = subprocess.run(
            [sys.executable, "-c", example], cwd=tmp_path, stdout=output, stderr=errors, timeout=60, check=False
        )
        end_broker(tmp_path / "queue_data")
        output.seek(0)
        errors.seek(0)
        shown = output.read()
        assert done.returncode == 0, errors.read()
    assert shown.startswith("attempt 1 failed\nattempt 2 failed\ninvoices/0/0 ValueError: invalid literal")
    assert "Traceback" in shown
    assert shown.endswith("\n1\n0\n")

"""The example of `docs/history.md` runs, and shows what the page says."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "history.md").read_text()


def test_the_example_of_the_page_runs(broker, monkeypatch, capsys) -> None:
    [example] = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    monkeypatch.chdir(broker.root.parent)
    exec(compile(example, "history.md", "exec"), {})
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in shown[:3]] == [
        ["published", "parcels/0/0"],
        ["leased", "parcels/0/0"],
        ["acked", "parcels/0/0"],
    ]
    assert shown[3:] == ["settled", "sequenceDiagram", "1 []"] or shown[3:] == ["settled", "sequenceDiagram", "1 [0]"]

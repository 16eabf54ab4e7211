"""Each block of `docs/quickstart.md` runs, one after the other, and shows what the page says."""

from __future__ import annotations

from pathlib import Path

import pytest
from doc_blocks import ROOT, blocks_of, run_line, run_shell
from test_readme import end_broker

BLOCKS = blocks_of(ROOT / "docs" / "quickstart.md")
SCRIPTS = [block for block in BLOCKS if block.language == "python"]
SHELL = [block.text for block in BLOCKS if block.language == "sh"]


def test_the_page_can_be_followed_from_its_first_line_to_its_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DQ_DIR", raising=False)
    the_main_job, scripts, commands, look, stop = SHELL
    assert the_main_job.strip() in (ROOT / "README.md").read_text()  # run by .ci/run
    assert [block.title for block in SCRIPTS] == ["producer.py", "consumer.py"]
    for block in SCRIPTS:
        Path(block.title).write_text(block.text)
    try:
        assert run_shell(scripts, tmp_path) == next(block.text for block in BLOCKS if block.language == "text")
        for line in commands.splitlines():
            code, said = run_line(line)
            assert code == 0, line
            _, prints, what = line.partition("# prints ")
            assert said == f"{what}\n" if prints else said, line
        assert run_shell(look, tmp_path) == '{"item":"tea","cups":2}\n{"item":"scone","n":0}\n{"item":"scone","n":1}\n'
        assert "has stopped" in run_line(stop)[1]
    finally:
        end_broker(tmp_path / "queue_data")

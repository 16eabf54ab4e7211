"""Each block of `docs/quickstart.md` runs, one after the other, and shows what the page says."""

from __future__ import annotations

from pathlib import Path

from doc_blocks import ROOT, blocks_of, run_shell
from test_readme import end_broker

BLOCKS = blocks_of(ROOT / "docs" / "quickstart.md")
SCRIPTS = [block for block in BLOCKS if block.language == "python"]
SHELL = [block.text for block in BLOCKS if block.language == "sh"]


def test_the_page_can_be_followed_from_its_first_line_to_its_last(tmp_path: Path) -> None:
    the_main_job, scripts, commands, look, stop = SHELL
    assert the_main_job.strip() in (ROOT / "README.md").read_text()  # run by .ci/run
    assert [block.title for block in SCRIPTS] == ["producer.py", "consumer.py"]
    for block in SCRIPTS:
        (tmp_path / block.title).write_text(block.text)
    try:
        assert run_shell(scripts, tmp_path) == next(block.text for block in BLOCKS if block.language == "text")
        said = run_shell(commands + look, tmp_path)
        assert said.startswith('orders/0/1001\n{"item":"milk"}\n')
        assert said.endswith('{"item":"tea","cups":2}\n{"item":"scone","n":0}\n{"item":"scone","n":1}\n')
        for line in commands.splitlines():
            _, prints, what = line.partition("# prints ")
            assert not prints or f"{what}\n" in said
        assert "has stopped" in run_shell(stop, tmp_path)
    finally:
        end_broker(tmp_path / "queue_data")

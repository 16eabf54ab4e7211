"""The pages of the commands are what their help says, and the list in `docs/commands.md` has all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dq.cli import manual
from dq.cli.commands import COMMANDS

DOCS = Path(__file__).parents[2] / "docs"
MADE = manual.pages()


def test_every_command_has_its_page() -> None:
    there = {path.name for path in (DOCS / "commands").glob("*.md")}
    assert there == set(MADE) == {f"{name}.md" for name in COMMANDS}, f"run `{manual.AGAIN}`"


@pytest.mark.parametrize("name", MADE)
def test_the_page_of_a_command_says_what_its_help_says(name: str) -> None:
    assert (DOCS / "commands" / name).read_text() == MADE[name], f"the help has changed: run `{manual.AGAIN}`"


def test_the_list_of_commands_is_that_of_the_program() -> None:
    page = (DOCS / "commands.md").read_text()
    assert all(f"[`dq {name}`](commands/{name}.md)" in page for name in COMMANDS)
    assert page == manual.with_list(page), f"the list has changed: run `{manual.AGAIN}`"


def test_the_table_of_metrics_is_that_of_the_program() -> None:
    page = (DOCS / "metrics.md").read_text()
    assert "| `dq_sink_waiting` | gauge | `sink` |" in page
    assert page == manual.with_metrics(page), f"the metrics have changed: run `{manual.AGAIN}`"


def test_the_cheat_sheet_has_a_line_of_every_command() -> None:
    lines = (DOCS / "cheatsheet.md").read_text()
    assert [name for name in COMMANDS if f"dq {name}" not in lines] == []


@pytest.mark.parametrize("name", MADE)
def test_the_help_of_a_command_has_examples(name: str) -> None:
    assert "```sh\ndq " in MADE[name] or "| dq " in MADE[name], "give it `epilog=examples(...)`"


def test_pages_of_commands_that_are_gone_are_deleted_and_the_rest_is_written_once(tmp_path: Path) -> None:
    (tmp_path / "commands").mkdir()
    (tmp_path / "commands" / "gone.md").write_text("# dq gone\n")
    (tmp_path / "commands.md").write_text("# Commands\n\n<!-- the commands -->\n<!-- so far the commands -->\n")
    assert manual.write(tmp_path) == len(MADE) + 2
    assert not (tmp_path / "commands" / "gone.md").exists()
    assert (tmp_path / "commands" / "tail.md").read_text() == MADE["tail.md"]
    assert manual.write(tmp_path) == 0


def test_what_help_says_is_not_taken_for_markdown() -> None:
    assert manual._plain("[0<=x<=9] of *all*, as `a[0] < *b*`") == r"\[0&lt;=x&lt;=9\] of \*all\*, as `a[0] < *b*`"

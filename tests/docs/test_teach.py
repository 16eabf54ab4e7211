"""The plan for a class adds up, and what it sends people to is there."""

from __future__ import annotations

import re
from itertools import accumulate
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEACH = (ROOT / "docs" / "teach.md").read_text()
PARTS = [
    (60 * int(h) + int(m), int(minutes)) for h, m, minutes in re.findall(r"^### (\d):(\d\d) .*\((\d+) minutes\)$", TEACH, re.M)
]
PAGES = ["docs/teach.md", *(str(page.relative_to(ROOT)) for page in sorted((ROOT / "examples").glob("**/README.md")))]
FILES = re.findall(r"^\| `(src/dq/[\w/]+\.py)` \| (.*) \|$", TEACH, re.M)


def test_the_plan_has_ninety_minutes_and_no_gap() -> None:
    starts = [start for start, _ in PARTS]
    assert starts == [0, *accumulate(minutes for _, minutes in PARTS)][:-1]
    assert sum(minutes for _, minutes in PARTS) == 90


def test_every_part_says_what_to_run_and_what_to_ask() -> None:
    parts = re.split(r"^### ", TEACH.partition("## Ten files")[0], flags=re.M)[1:]
    for part in parts:
        assert "- **Run** " in part, part
        assert "- **Ask** " in part, part
    assert sum("- **Break** " in part for part in parts) >= 6
    assert sum("- **Look** " in part for part in parts) >= 6


def test_every_example_is_in_the_plan_and_in_the_index() -> None:
    examples = sorted(path.parent.name for path in (ROOT / "examples").glob("*/main.py"))
    index = (ROOT / "examples" / "README.md").read_text()
    for name in examples:
        assert f"../examples/{name}/README.md" in TEACH, f"{name} is not in the plan"
        assert f"({name}/README.md)" in index, f"{name} is not in the index"


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_links_to_is_there(page: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text()):
        assert (ROOT / page).parent.joinpath(target).exists(), f"{page} links to {target}"


def test_ten_files_are_to_be_read() -> None:
    assert len({file for file, _ in FILES}) == 10


@pytest.mark.parametrize(("file", "look_for"), FILES, ids=[file for file, _ in FILES])
def test_a_file_to_read_is_there_is_short_and_has_what_to_look_for(file: str, look_for: str) -> None:
    text = (ROOT / file).read_text()
    assert text.count("\n") <= 400
    names = re.findall(r"`([\w.]+)`", look_for)
    assert names, "it names something to look for"
    for name in names:
        assert name in text, f"{name} is not in {file}"


def test_other_files_that_are_named_are_there() -> None:
    for path in re.findall(r"`((?:src|tests|docs)/[\w/.]+\.\w+)`", TEACH):
        assert (ROOT / path).is_file(), path

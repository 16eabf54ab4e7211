"""`docs/guarantees.md` names tests that exist, and every case that was weighed has a test that names it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "guarantees.md").read_text()
TESTS = {str(path.relative_to(ROOT)): path.read_text() for path in sorted((ROOT / "tests").rglob("*.py"))}
ALL = "\n".join(text for name, text in TESTS.items() if name != "tests/docs/test_guarantees.py")

# Rows of the bad-input matrix that the format or the protocol has no place for, with the reason.
OVERRIDDEN = {
    27: "frames carry no checksum: they pass a pipe of this machine",
    36: "duplicate keys in an envelope cannot be told: the last one counts",
}


def numbers(text: str) -> set[int]:
    """`1, 3 to 5` as the numbers in it."""
    found: set[int] = set()
    for first, last in re.findall(r"(\d+)(?:(?:\u2013|-| to )(\d+))?", text):
        found.update(range(int(first), int(last or first) + 1))
    return found


def named(kind: str, item: str) -> list[str]:
    """What follows a word like `bad input` in the tests."""
    return re.findall(rf"(?i:\b{kind}) ({item}(?:(?:, | and ){item})*)", ALL)


def test_every_row_of_bad_input_has_a_test_that_names_it() -> None:
    covered = {number for text in named("bad input", r"\d+(?:(?:\u2013|-| to )\d+)?") for number in numbers(text)}
    assert set(range(1, 62)) - covered == set(OVERRIDDEN)


@pytest.mark.parametrize(
    "row",
    [
        *(f"P{n}" for n in range(1, 7)),
        *("B1", "B2", "B3", "B4", "B5", "B6a", "B6b", "B6c", "B7", "B8", "B9", "B10"),
        *(f"C{n}" for n in range(1, 9)),
        *(f"W{n}" for n in range(1, 7)),
        *(f"M{n}" for n in range(1, 7)),
        *(f"G{n}" for n in range(1, 8)),
    ],
)
def test_every_crash_has_a_test_that_names_it(row: str) -> None:
    covered = {part for text in named("crash", r"[PBCWMG]\d+[abc]?") for part in re.findall(r"[PBCWMG]\d+[abc]?", text)}
    assert row in covered


@pytest.mark.parametrize("row", [f"H{n}" for n in range(1, 13)])
def test_every_row_of_the_handlers_has_a_test_that_names_it(row: str) -> None:
    assert re.search(rf'"""(?:H\d+, )*{row}\b', ALL)


@pytest.mark.parametrize("rule", range(1, 14))
def test_every_rule_of_recovery_has_a_test_that_names_it(rule: int) -> None:
    covered = {n for text in re.findall(r"\bR(\d+(?:(?:\u2013|-| to )R?\d+)?)\b", ALL) for n in numbers(text.replace("R", ""))}
    assert rule in covered


def test_the_tests_that_the_page_names_exist() -> None:
    places = re.findall(r"`(tests/[\w/]+(?:\.py)?)(?:::(\w+))?`", PAGE)
    assert len(places) > 30
    for place, function in places:
        assert (ROOT / place).exists(), place
        assert not function or f"def {function}(" in TESTS[place], f"{place}::{function}"


def test_the_page_has_the_promises_of_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    promises = re.search(r"## What it promises\n\n(.*?)\n\n", readme, re.S)
    assert promises is not None
    for promise in re.findall(r"- (.*?)(?=\n- |\Z)", promises[1], re.S):
        assert " ".join(promise.split()) in " ".join(PAGE.split()).replace("> ", ""), promise

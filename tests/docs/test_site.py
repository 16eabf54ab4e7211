"""What a page links to is there, each page is in the navigation, and no page says `pip install dq`.

`.ci/run` builds the site, which looks after headings too; this finds the same without what a build needs.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from doc_blocks import PAGES, ROOT

SETTINGS = (ROOT / ".ci" / "mkdocs.yml").read_text()
DOCS = ROOT / "docs"
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


@pytest.mark.parametrize("name", NAMES)
def test_what_a_page_links_to_stands_there(name: str) -> None:
    page = ROOT / name
    for target, heading in re.findall(r"\]\((?![a-z]+:)([^)#\s]*)#?([^)\s]*)\)", page.read_text()):
        there = page.parent / target if target else page
        assert there.is_file(), f"{name} links to {target}"
        assert not heading or heading in headings_of(there), f"{name} links to {target}#{heading}"


def headings_of(page: Path) -> set[str]:
    """The names by which its headings are linked to, on the site and on a forge alike."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


def test_each_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"[\w/]+\.md$", SETTINGS, re.M))
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    of_commands = {page for page in pages if page.startswith("commands/")}  # these are listed by .ci/mkdocs_hooks.py
    assert listed == pages - of_commands, "name each page in .ci/mkdocs.yml"


def test_the_first_page_leads_to_every_other() -> None:
    index = (DOCS / "index.md").read_text()
    assert [page.name for page in DOCS.glob("*.md") if page.name != "index.md" and f"]({page.name})" not in index] == []


def test_the_map_for_machines_has_every_page() -> None:
    linked = re.findall(r"\]\(([^)]+)\)", (DOCS / "llms.txt").read_text())
    assert [name for name in linked if not (DOCS / name).is_file()] == []
    listed = set(re.findall(r"[\w/]+\.md$", SETTINGS, re.M))
    assert listed - set(linked) == set(), "name each page in docs/llms.txt"


def test_no_page_tells_to_install_the_package_of_another_project() -> None:
    for page in PAGES:
        assert not re.search(r"(pip|uv|uvx|pipx|tool) (install|add|run --with) (-\S+ )*dq\b", page.read_text()), page

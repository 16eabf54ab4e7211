"""What mkdocs is told beside its settings: a page a command in the navigation, and the files beside docs/ that pages link to.

Pages link to files of the repository as they do on disk (`../examples/README.md`). The site takes these files in, below
`repository/`, so that it is whole by itself; a file that is not there is a warning, and with `--strict` an error.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
TAKEN_IN = "repository"
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|[#/])([^)#\s]+)")
_LOG = logging.getLogger("mkdocs.hooks.repository")


def on_config(config: Any) -> Any:
    """Adds the pages of the commands to the navigation."""
    [commands] = [part["Commands"] for part in config.nav if "Commands" in part]
    commands += [f"commands/{page.name}" for page in sorted((ROOT / "docs" / "commands").glob("*.md"))]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds what pages link to beside docs/, and what is linked to from there."""
    waiting = [str(PurePosixPath("docs", file.src_uri)) for file in files.documentation_pages()]
    seen = set(waiting)
    while waiting:
        page = waiting.pop()
        for place in map(_linked(page), _LINK.findall((ROOT / page).read_text())):
            if place in seen or place.startswith("docs/"):  # mkdocs looks after those itself
                continue
            seen.add(place)
            if not (ROOT / place).is_file():
                _LOG.warning("%s links to %s, which is no file of the repository", page, place)
                continue
            files.append(File.generated(config, f"{TAKEN_IN}/{place}", abs_src_path=str(ROOT / place)))
            if place.endswith(".md"):
                waiting.append(place)
    for file in files:
        if file.src_uri.startswith(f"{TAKEN_IN}/"):
            file.inclusion = file.inclusion.NOT_IN_NAV
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turns links that lead out of docs/ to the files that were taken in."""
    here = page.file.src_uri
    linked = _linked(_on_disk(here))

    def turned(found: re.Match[str]) -> str:
        place = linked(found[1])
        target = place.removeprefix("docs/") if place.startswith("docs/") else f"{TAKEN_IN}/{place}"
        return os.path.relpath(target, PurePosixPath(here).parent)

    return _LINK.sub(turned, markdown)


def _on_disk(src_uri: str) -> str:
    """Where in the repository a page of the site stands."""
    return src_uri.removeprefix(f"{TAKEN_IN}/") if src_uri.startswith(f"{TAKEN_IN}/") else f"docs/{src_uri}"


def _linked(page: str) -> Any:
    """What tells where in the repository a link of that page leads."""
    return lambda target: os.path.normpath(PurePosixPath(page).parent / target)

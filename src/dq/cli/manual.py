"""`python -m dq.cli.manual docs`: writes the pages of `docs/commands/`, the list of them in `docs/commands.md`, and the
tables of settings in `docs/configuration.md` and of metrics in `docs/metrics.md`.

They are made from the commands' own help and from the tables of settings and metrics. A test compares them with what is
committed, so that they cannot drift apart.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from dq.cli.commands import ALIASES, COMMANDS, dq
from dq.cli.exposition import FAMILIES
from dq.settings.setting import Part
from dq.settings.table import SETTINGS

AGAIN: Final = "uv run python -m dq.cli.manual docs"
"""What writes the pages again."""

_MARK: Final = f"<!-- Made by `{AGAIN}`; what is changed here by hand is lost. -->"
_LIST: Final = re.compile(r"(?<=<!-- the commands -->\n).*?(?=<!-- so far the commands -->)", re.S)
_SETTINGS: Final = re.compile(r"(?<=<!-- the settings -->\n).*?(?=<!-- so far the settings -->)", re.S)
_METRICS: Final = re.compile(r"(?<=<!-- the metrics -->\n).*?(?=<!-- so far the metrics -->)", re.S)
_NOT_MARKDOWN: Final = re.compile(r"(`[^`]*`)|([*\[\]])|(<)")


def pages() -> dict[str, str]:
    """All pages by the name of their file, as `publish.md`."""
    top = click.Context(dq, info_name="dq")
    found = {}
    for name in dq.list_commands(top):
        command = dq.get_command(top, name)
        if command is not None and not command.hidden:
            found[f"{name}.md"] = "\n".join(_page(command, click.Context(command, parent=top, info_name=name)))
    return found


def with_list(page: str) -> str:
    """The text of `commands.md` with the list of all commands at its marks."""
    lines = []
    for heading in dict.fromkeys(entry.heading for entry in COMMANDS.values()):
        lines += [f"**{heading}**", ""]
        for name, entry in COMMANDS.items():
            if entry.heading == heading:
                lines.append(f"- [`dq {name}`](commands/{name}.md): {entry.says}")
        lines.append("")
    lines += ["What users of other tools type is understood too:", "", "| typed | is |", "| --- | --- |"]
    for meant in dict.fromkeys(ALIASES.values()):
        typed = ", ".join(f"`dq {alias}`" for alias, of in ALIASES.items() if of == meant)
        lines.append(f"| {typed} | `dq {meant}` |")
    lines.append("")
    return _LIST.sub(lambda _: "\n" + "\n".join(lines) + "\n", page)


def with_settings(page: str) -> str:
    """The text of `configuration.md` with the tables of all settings at its marks."""
    lines = []
    for part in Part:
        lines += [f"### Of {part}", "", "| setting | variable | takes | default | why |", "| --- | --- | --- | --- | --- |"]
        for each in SETTINGS.values():
            if each.part is part:
                default = each.text_of(each.default)
                lines.append(f"| `{each.name}` | `{each.variable}` | {each.takes} | {default} | {_plain(each.why)} |")
        lines.append("")
    return _SETTINGS.sub(lambda _: "\n" + "\n".join(lines) + "\n", page)


def with_metrics(page: str) -> str:
    """The text of `metrics.md` with the table of all metrics at its marks."""
    lines = ["| metric | kind | labels | what it is |", "| --- | --- | --- | --- |"]
    for family in FAMILIES:
        labels = ", ".join(f"`{label}`" for label in family.labels)
        lines.append(f"| `{family.name}` | {family.kind} | {labels} | {_plain(family.says)} |")
    return _METRICS.sub(lambda _: "\n" + "\n".join(lines) + "\n\n", page)


def write(docs: Path) -> int:
    """Writes the pages and the list; returns how many files were changed, made or deleted."""
    made = {docs / "commands" / name: text for name, text in pages().items()}
    made[docs / "commands.md"] = with_list((docs / "commands.md").read_text())
    for name, filled in (("configuration.md", with_settings), ("metrics.md", with_metrics)):
        if (docs / name).exists():
            made[docs / name] = filled((docs / name).read_text())
    (docs / "commands").mkdir(exist_ok=True)
    changed = 0
    for path in set((docs / "commands").glob("*.md")) - set(made):
        path.unlink()
        changed += 1
    for path, text in made.items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            changed += 1
    return changed


def _page(command: click.Command, context: click.Context) -> Iterator[str]:
    yield f"# {context.command_path}"
    yield ""
    yield _MARK
    yield ""
    yield from _about(command, context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None and not inner.hidden:
                below = click.Context(inner, parent=context, info_name=name)
                yield f"## {below.command_path}"
                yield ""
                yield from _about(inner, below)
    yield "[All commands, and what their exit codes mean](../commands.md)"
    yield ""


def _about(command: click.Command, context: click.Context) -> Iterator[str]:
    yield from _paragraphs(command.help or "")
    yield from ("```text", " ".join([context.command_path, *command.collect_usage_pieces(context)]), "```", "")
    records = [param.get_help_record(context) for param in command.params]
    options = [f"- `{record[0]}`: {' '.join(_plain(record[1]).split())}" for record in records if record and record[1]]
    if options:
        yield from (*options, "")
    if command.epilog:
        lines = inspect.cleandoc(command.epilog.replace("\b", "")).removeprefix("Examples:").strip("\n").splitlines()
        yield from ("```sh", *(line.removeprefix("  ") for line in lines), "```", "")


def _paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of a help text; those that click is not to wrap are shown as they stand."""
    for paragraph in inspect.cleandoc(text.partition("\f")[0]).split("\n\n"):
        if paragraph.startswith("\b"):
            yield from ("```text", *paragraph.splitlines()[1:], "```", "")
        elif paragraph:
            yield from (" ".join(_plain(paragraph).split()), "")


def _plain(text: str) -> str:
    """Text of a help message, so that Markdown shows it as it is; what stands in backticks is code there too."""
    return _NOT_MARKDOWN.sub(lambda found: found[1] or (f"\\{found[2]}" if found[2] else "&lt;"), text)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(f"usage: {AGAIN}")
    print(f"{write(Path(sys.argv[1]))} files written")

"""Every line with `dq` in a page is one that the program takes: it is parsed as the program does, and not run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

import click
import pytest
from doc_blocks import PAGES, ROOT, blocks_of

from dq.cli.commands import ALIASES, dq
from dq.cli.options import Moment, Span, place_of

PROGRAMS = (["dq"], ["uv", "run", "dq"], ["uv", "run", "python", "-m", "dq.main"], ["python", "-m", "dq.main"])
BETWEEN = {"|", "||", "&", "&&", ";", "(", ")", "then", "do", "if", "while", "!"}


def commands_of(script: str) -> Iterator[list[str]]:
    """The arguments of each `dq` in lines of a shell."""
    text = ""
    for line in script.replace("\\\n", " ").splitlines(keepends=True):
        text += line
        lexer = shlex.shlex(text, posix=True, punctuation_chars="();|&")
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:  # a quotation that goes on in the next line
            continue
        text = ""
        for ended, command in groupby(words, BETWEEN.__contains__):
            if not ended and (arguments := after_program(list(command))) is not None:
                yield arguments
    assert not text, f"a quotation is not closed: {text}"


def after_program(words: list[str]) -> list[str] | None:
    """What follows the name of the program; None where another program is run."""
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):  # NO_COLOR=1 dq status
        words = words[1:]
    for program in PROGRAMS:
        if words[: len(program)] == program:
            redirected = (n for n, word in enumerate(words) if re.match(r"[0-9]?[<>]", word))
            return words[len(program) : next(redirected, None)]
    return None


def parsed(arguments: list[str]) -> None:
    """As the program does. Raises click.UsageError."""
    command, context, rest = dq, click.Context(dq, info_name="dq"), arguments
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        name, inner, rest = command.resolve_command(context, rest)
        assert inner is not None
        command, context = inner, click.Context(inner, parent=context, info_name=name)
    if not {"-h", "--help"} & set(rest) and not isinstance(command, click.Group):
        command.make_context(context.info_name, list(rest), parent=context.parent)


PAGES_WITH_COMMANDS = {
    str(page.relative_to(ROOT)): found
    for page in PAGES
    if (found := [each for block in blocks_of(page) if block.language in ("sh", "bash") for each in commands_of(block.text)])
}


@pytest.mark.parametrize("page", PAGES_WITH_COMMANDS)
def test_the_commands_of_a_page_are_what_the_program_takes(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in PAGES_WITH_COMMANDS[page]:
        try:
            parsed(arguments)
        except click.UsageError as error:
            pytest.fail(f"{page} has `dq {shlex.join(arguments)}`: {error.format_message()}")


def test_commands_that_text_speaks_of_are_there() -> None:
    known = re.compile(r"`(?:uv run )?(?:dq|python -m dq\.main) ([a-z]+)(?: ([a-z]+))?[^`]*`")
    for page in PAGES:
        for name, inner in known.findall(re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)):
            if f"{name} {inner}".strip() in ALIASES:
                continue  # tests/cli/test_aliases.py runs them
            command = dq.get_command(click.Context(dq), name)
            assert command is not None, f"{page} speaks of `dq {name}`"
            if isinstance(command, click.Group) and inner:
                assert command.get_command(click.Context(command), inner) is not None, f"{page}: `dq {name} {inner}`"


@pytest.mark.parametrize(("argument", "read"), [("TIME", Span()), ("WHEN", Moment()), ("WHERE", place_of)])
def test_what_arguments_look_like_is_what_they_may_be(argument: str, read: Callable[[str], object]) -> None:
    [cells] = re.findall(rf"^\| {argument} \| (.*?) \|", (ROOT / "docs" / "commands.md").read_text(), re.M)
    for text in re.findall("`(.*?)`", cells):
        read(text)
    with pytest.raises(click.UsageError):
        read("no time")


def test_a_wrong_line_is_seen() -> None:
    [first, second] = commands_of('cat x | NO_COLOR=1 uv run dq tail orders --nope 3 >out; echo "dq x" && dq sink seek a b')
    assert (first, second) == (["tail", "orders", "--nope", "3"], ["sink", "seek", "a", "b"])
    with pytest.raises(click.UsageError, match="--nope"):
        parsed(first)
    with pytest.raises(click.UsageError, match="no command 'nope'"):
        parsed(["nope"])
    with pytest.raises(click.UsageError, match="nope"):
        parsed(["sink", "nope"])
    parsed(second)

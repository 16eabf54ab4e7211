"""What users of other tools type: aliases of commands, and no error where what is to go is gone."""

from __future__ import annotations

import click
import pytest

from dq.cli.commands import ALIASES, COMMANDS
from dq.cli.commands import dq as program


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_is_the_command_that_it_means_whose_help_names_it(dq, alias) -> None:
    ended = dq(*alias.split(), "--help")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"Usage: dq {ALIASES[alias]} [")
    assert ended.out.count(f"`dq {alias}`") == 1


def test_no_alias_hides_a_command(dq) -> None:
    for alias in ALIASES:
        first, _, second = alias.partition(" ")
        if not second:
            assert first not in COMMANDS
            continue
        group = program.get_command(click.Context(program), first)
        assert isinstance(group, click.Group)
        assert second not in group.commands


def test_help_names_the_short_ones_in_one_line_of_its_own(dq) -> None:
    out = dq("--help").out
    assert "Short: ls for streams" in out
    assert not any(f"\n  {alias} " in out for alias in ALIASES)


def test_a_day_with_aliases(here, name, dq) -> None:
    assert dq("pub", name, '{"n": 1}').out == f"{name}/0/0\n"
    assert dq("put", name, "-", lines=b"2\n").code == 0
    assert name in dq("ls").out
    assert name in dq("stream", "ls").out
    assert f"stream      {name}" in dq("info", name).out
    assert len(dq("get", name, "--sink", name, "-n", "1").out.splitlines()) == 1
    assert len(dq("sub", "--sink", name, "-n", "1").out.splitlines()) == 1
    assert name in dq("sink", "list").out
    assert dq("sink", "rm", name, "--yes").code == 0
    assert dq("stream", "rm", name, "--yes").code == 0
    assert name not in dq("ls").out


@pytest.mark.parametrize("kind", ["stream", "sink"])
def test_what_is_gone_may_be_destroyed_if_it_exists(here, name, dq, kind) -> None:
    here.sink(name, name)
    assert dq(kind, "destroy", name, "--if-exists").code == 2, "what is there is asked for"
    assert dq(kind, "destroy", name, "--if-exists", "--yes").code == 0
    again = dq(kind, "destroy", name, "--if-exists")
    assert (again.code, again.out, again.err) == (0, "", "")
    assert dq(kind, "destroy", name, "--yes").code == 4
    assert dq(kind, "destroy", "../x", "--if-exists").code == 2

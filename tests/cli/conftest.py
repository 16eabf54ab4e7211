"""Commands, run in this process as the program runs them."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from dq.cli.commands import run


class Ended(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture
def dq(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """`dq("tail", "orders", lines=b"…")`: runs a command, `lines` on its standard input."""

    def command(*arguments: object, lines: bytes = b"") -> Ended:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
        code = run([str(argument) for argument in arguments], "dq")
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return Ended(code, said.out, said.err)

    return command


@pytest.fixture
def here(broker, monkeypatch: pytest.MonkeyPatch):
    """The broker of the tests is the one that commands find."""
    monkeypatch.setenv("DQ_DIR", str(broker.root))
    return broker

"""What all commands' parsers share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from dq.cli.exits import Exit


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Exits with code 2."""
        print(f"dq: {message} (`{self.prog} --help` shows what there is)", file=sys.stderr)
        raise SystemExit(int(Exit.USAGE))


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """An argument type: a whole number within limits."""

    def check(text: str) -> int:
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high}, not {text!r}")
        return int(text)

    return check

"""`python -m dq.main`: without arguments the demonstration; the command `dq` is the same program.

This module is imported again by every process that is started from it, so it imports nothing at the top.
"""

from __future__ import annotations

import sys

_INTERRUPTED = 130


def main(arguments: list[str] | None = None, program: str = "python -m dq.main") -> int:
    """Runs the command line; returns the exit code."""
    try:
        from dq.cli.commands import run
    except KeyboardInterrupt:  # nothing has begun, so there is nothing to say
        return _INTERRUPTED

    return run(sys.argv[1:] if arguments is None else arguments, program)


def command() -> int:
    """The console script `dq`: without arguments the status of the broker, and the commands."""
    return main(sys.argv[1:] or ["status", "--or-help"], "dq")


if __name__ == "__main__":
    raise SystemExit(main())

"""The commands by name, and how their errors end: one line on standard error and an exit code, never a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from dq.broker.life import exit_code_of
from dq.cli import demo, events, repair, serve, verify
from dq.cli.exits import Exit
from dq.errors import BrokerRunning, DqError, InUse, InvalidSetting, LogError

Command = Callable[[list[str]], int]
COMMANDS: dict[str, Command] = {
    "demo": demo.run,
    "events": events.run,
    "repair": repair.run,
    "serve": serve.run,
    "verify": verify.run,
}


def run(arguments: list[str]) -> int:
    """Runs a command; without one, the demonstration. Returns the exit code."""
    command: Command = demo.run
    rest = arguments
    if arguments and not arguments[0].startswith("-"):
        name, rest = arguments[0], arguments[1:]
        if name not in COMMANDS:
            return _fail(f"there is no command {name!r}; known are {', '.join(sorted(COMMANDS))}", Exit.USAGE)
        command = COMMANDS[name]
    try:
        return command(rest)
    except KeyboardInterrupt:
        return _fail("stopped by Ctrl-C", Exit.INTERRUPTED)
    except BrokenPipeError:
        # Whoever read the output has left, as `head` does. What is still to be written at the end would fail once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.BROKEN_PIPE
    except DqError as error:
        return _fail(str(error), _code_of(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", Exit.FAILED)


def _code_of(error: DqError) -> Exit:
    if isinstance(error, (BrokerRunning, InUse)):
        return Exit.IN_USE
    if isinstance(error, LogError):
        return Exit(exit_code_of(error))
    return Exit.USAGE if isinstance(error, InvalidSetting) else Exit.FAILED


def _fail(reason: str, code: Exit) -> int:
    print(f"dq: {reason}", file=sys.stderr)
    return code

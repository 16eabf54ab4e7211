"""The commands by name, and how their errors end: one line on standard error and an exit code, never a traceback.

A command's module is imported when it is asked for: `dq --help` is to be there at once, so what it says of each stands here.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from typing import Any, Final, NamedTuple

import click

from dq.cli.exits import Exit
from dq.cli.failures import code_of
from dq.cli.output import remark
from dq.errors import DqError
from dq.model.names import near_names


class Entry(NamedTuple):
    """A command: the module that has it as `command`, what it does in a line, under which heading it is listed."""

    module: str
    says: str
    heading: str


_RUN, _DATA, _WATCH, _MEND = "Run", "Publish, consume, look", "Watch", "Mend"
_MOVE, _MORE = "Move", "More"
COMMANDS: Final[dict[str, Entry]] = {
    "demo": Entry("demo", "Show the whole loop on real input: publishers, consumers, two of them killed.", _RUN),
    "serve": Entry("serve", "Run a broker in the foreground.", _RUN),
    "stop": Entry("stop", "Stop the broker in order.", _RUN),
    "status": Entry("status", "Say whether a broker runs, and what there is.", _RUN),
    "config": Entry("config", "Show every setting: its value, where that came from, and why its default is what it is.", _RUN),
    "publish": Entry("publish", "Publish records: an argument, or a line of standard input each.", _DATA),
    "consume": Entry("consume", "Consume a sink: print each task, or run a command for it.", _DATA),
    "work": Entry("work", "Run the handlers of an app.", _DATA),
    "tail": Entry("tail", "Read a stream's records, and follow it.", _DATA),
    "peek": Entry("peek", "Look at what a sink would hand out next, or at a stream's records; take nothing.", _DATA),
    "streams": Entry("streams", "List the streams.", _WATCH),
    "stream": Entry("stream", "Show, make, trim or destroy one stream.", _WATCH),
    "sinks": Entry("sinks", "List the sinks.", _WATCH),
    "sink": Entry("sink", "Show, move, pause, resume or destroy one sink.", _WATCH),
    "who": Entry("who", "Show who holds what since when, and take it back.", _WATCH),
    "dlq": Entry("dlq", "List, show, replay or discard a stream's dead letters.", _WATCH),
    "log": Entry("log", "Show the log files: what is live in each segment, and what pins it.", _WATCH),
    "explain": Entry("explain", "Tell the biography of one record, from the logs.", _WATCH),
    "at": Entry("at", "Show what a stream and its sinks looked like at a moment.", _WATCH),
    "top": Entry("top", "Watch rates, depths and latencies, live.", _WATCH),
    "metrics": Entry("metrics", "Print every counter and latency, as Prometheus takes them.", _WATCH),
    "check": Entry("check", "Say in one line whether all is well, for a monitoring system.", _WATCH),
    "events": Entry("events", "Show the envelopes that pass the broker's processes.", _WATCH),
    "export": Entry("export", "Write streams as JSON lines, for `dq import`, `jq` or a backup.", _MOVE),
    "import": Entry("import_", "Publish what was exported, each record once.", _MOVE),
    "verify": Entry("verify", "Check every log of a data directory, and change nothing.", _MEND),
    "repair": Entry("repair", "Mend a damaged log, or save what can be read of it.", _MEND),
    "bench": Entry("bench", "Measure how fast it is on this machine, beside what its disk can do.", _MORE),
    "completion": Entry("completion", "Print a script by which bash, zsh or fish completes `dq`.", _MORE),
}

ALIASES: Final[dict[str, str]] = {
    "ls": "streams",
    "info": "stream show",
    "pub": "publish",
    "put": "publish",
    "sub": "consume",
    "get": "consume",
    "stream ls": "streams",
    "stream list": "streams",
    "stream rm": "stream destroy",
    "sink ls": "sinks",
    "sink list": "sinks",
    "sink rm": "sink destroy",
    "dlq ls": "dlq list",
}
"""What users of other tools type, and the command that is run by it. The help of that one names it."""


class Commands(click.Group):
    """The group of all commands, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, as they are listed."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """One of them, or None."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command: click.Command = importlib.import_module(f"dq.cli.{entry.module}").command
        _name_aliases(cmd_name, command)
        for name, inner in command.commands.items() if isinstance(command, click.Group) else ():
            _name_aliases(f"{cmd_name} {name}", inner)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, of what an alias means; and names the near ones of what there is not."""
        for size in (2, 1):
            if (meant := ALIASES.get(" ".join(args[:size]))) is not None:
                args = [*meant.split(), *args[size:]]
                break
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            known = f"known are {', '.join(sorted(COMMANDS))}"
            ctx.fail(f"there is no command {args[0]!r}; {near_names(args[0], COMMANDS, 'commands')} ({known})")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists them under their headings."""
        for heading in dict.fromkeys(entry.heading for entry in COMMANDS.values()):
            with formatter.section(heading):
                formatter.write_dl([(name, entry.says) for name, entry in COMMANDS.items() if entry.heading == heading])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Names what is short for one of them."""
        short: dict[str, list[str]] = {}
        for alias, meant in ALIASES.items():
            if " " not in alias:
                short.setdefault(meant, []).append(alias)
        formatter.write_paragraph()
        formatter.write_text("Short: " + ", ".join(f"{' or '.join(each)} for {meant}" for meant, each in short.items()) + ".")


def _name_aliases(name: str, command: click.Command) -> None:
    """Has the help of a command say what else it is called; once, however often it is asked for."""
    aliases = [f"`dq {alias}`" for alias, meant in ALIASES.items() if meant == name]
    also = f"\n\nAlso {', '.join(aliases)}."
    if aliases and command.help is not None and not command.help.endswith(also):
        command.help = inspect.cleandoc(command.help) + also


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def dq() -> None:
    """A durable queue and record stream for the processes of one host."""


def run(arguments: list[str], program: str = "python -m dq.main") -> int:
    """Runs a command; without one, the demonstration. Returns the exit code."""
    asked = os.environ.get("_DQ_COMPLETE") if program == "dq" else None
    if asked:
        return int(importlib.import_module("dq.cli.completion").complete(asked))
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments = ["demo", *arguments]
    try:
        with dq.make_context(program, arguments) as context:
            return int(dq.invoke(context) or 0)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else program
        return _fail(f"{error.format_message()} (`{where} --help` shows what there is)", Exit.USAGE)
    except click.ClickException as error:
        return _fail(error.format_message(), Exit.FAILED)
    except (KeyboardInterrupt, click.Abort):
        return _fail("stopped by Ctrl-C", Exit.INTERRUPTED)
    except BrokenPipeError:
        # Whoever read the output has left, as `head` does. What is still to be written at the end would fail once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.BROKEN_PIPE
    except DqError as error:
        return _fail(str(error), code_of(error))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", code_of(error))


def _fail(reason: Any, code: Exit) -> int:
    remark(str(reason))
    return code

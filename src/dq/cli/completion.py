"""`dq completion SHELL`: what a shell needs to complete commands, options, and the names of streams and sinks."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import Any, Final, Literal

import click
from click.shell_completion import BashComplete, CompletionItem, FishComplete, ShellComplete, ZshComplete

from dq.cli.commands import COMMANDS, Commands, dq
from dq.cli.exits import Exit
from dq.cli.named import on_disk
from dq.cli.options import DataDirectory, examples
from dq.cli.output import line
from dq.client.place import root_of
from dq.errors import DqError

VARIABLE: Final = "_DQ_COMPLETE"
"""The environment variable by which a shell asks, as click names it for a program `dq`."""
_SHELLS: Final[dict[str, type[ShellComplete]]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}
_KINDS: Final[dict[str | None, tuple[Literal["sinks", "streams"], ...]]] = {
    "stream": ("streams",), "streams": ("streams",), "sink": ("sinks",), "sinks": ("sinks",),
    "peek": ("sinks", "streams"), "who": ("sinks", "streams"),
}  # fmt: skip
_FILES: Final = {"FILE", "FILE|-", "LOG", "OUT"}


@click.command(
    epilog=examples(
        "dq completion bash > ~/.local/share/bash-completion/completions/dq",
        'dq completion zsh > "${fpath[1]}/_dq"',
        "dq completion fish > ~/.config/fish/completions/dq.fish",
    )
)
@click.argument("shell", type=click.Choice(list(_SHELLS)))
def command(shell: str) -> int:
    """Prints a script by which SHELL completes `dq`: its commands and options, and the streams and sinks of the data directory.

    The examples install it for you; a new shell has it then. To try it in this one: `eval "$(dq completion bash)"`, or of fish,
    `dq completion fish | source`. Names are looked up on the disk, so that no broker need run.
    """
    # Not the shell's own source(): that of bash starts a bash to ask for its version.
    line(ShellComplete.source(_completion(shell)))
    return Exit.WELL


def _completion(shell: str) -> ShellComplete:
    return _SHELLS[shell](_Completed("dq", context_settings=dq.context_settings, params=dq.params), {}, "dq", VARIABLE)


def complete(instruction: str) -> int:
    """Answers a shell that asks, as `bash_complete`; the exit code."""
    shell, _, what = instruction.partition("_")
    if shell not in _SHELLS or what not in ("complete", "source"):
        return Exit.FAILED
    completion = _completion(shell)
    try:
        line(ShellComplete.source(completion) if what == "source" else completion.complete())
    except Exception:  # whoever is typing is not to be disturbed by it
        return Exit.FAILED
    return Exit.WELL


class _Completed(Commands):
    """The commands, with arguments and options that know what names there are."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """See `Commands`."""
        command = super().get_command(ctx, cmd_name)
        return None if command is None else _taught(command, cmd_name)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """All commands, none of which is imported for that."""
        if incomplete.startswith("-"):
            return click.Command.shell_complete(self, ctx, incomplete)
        return [CompletionItem(name, help=entry.says) for name, entry in COMMANDS.items() if name.startswith(incomplete)]


def _taught(command: click.Command, group: str) -> click.Command:
    """A copy of a command whose arguments and options know what their values are, by what they are called.

    Args:
        group: of what its NAME is one.
    """
    made = copy(command)
    if isinstance(made, click.Group):
        made.commands = {name: _taught(inner, group) for name, inner in made.commands.items()}
    made.params = [copy(param) for param in command.params]
    for param in made.params:
        name = group if param.name == "name" and isinstance(param, click.Argument) else param.name
        if name in _KINDS:
            param.type = _Name(*_KINDS[name])
        elif isinstance(param.type, DataDirectory):
            param.type = _Path("dir")
        elif param.metavar in _FILES:
            param.type = _Path("file")
    return made


class _Name(click.ParamType[Any]):
    """The name of a stream or of a sink."""

    def __init__(self, *kinds: Literal["sinks", "streams"]) -> None:
        self.name, self._kinds = " or ".join(kinds), kinds

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Those that there are on the disk."""
        names = sorted({name for kind in self._kinds for name in _names(ctx.params.get("root"), kind)})
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


class _Path(click.ParamType[Any]):
    """A path, which the shell completes."""

    def __init__(self, kind: str) -> None:
        self.name = self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path: what else looks at this option is used to one."""
        return Path(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """For the shell to complete."""
        return [CompletionItem(incomplete, type=self._kind)]


def _names(root: Any, kind: Literal["sinks", "streams"]) -> list[str]:
    """The streams or the sinks of a data directory; none where they cannot be listed."""
    try:
        return on_disk(root_of(root or None), kind)
    except (OSError, DqError):
        return []

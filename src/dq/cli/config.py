"""`dq config [NAME]`: every setting of a data directory, its value, who said so, and why its default is what it is."""

from __future__ import annotations

import ast
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from dq.cli.exits import Exit
from dq.cli.options import as_json, data_alone, examples, flags
from dq.cli.output import COLOR, json_line, line, one_line, remark, table
from dq.client.broker import Broker
from dq.client.place import find_root, is_data_directory
from dq.config import LIMITS, Limits
from dq.errors import BrokerError
from dq.model.names import near_names
from dq.settings.setting import Setting
from dq.settings.table import DIRECTORY, SETTINGS
from dq.settings.values import Settings, settings_of

_LIMITS_HEADING = "Limits, which are no settings: facts that dq's safety or its format rests on."


@click.command(
    epilog=examples(
        "dq config",
        "dq config publish_timeout",
        "DQ_BUCKETS=4 dq config buckets --json",
        "dq config --json | jq -r 'select(.from != \"default\") | .name'",
    )
)
@click.argument("name", required=False)
@data_alone
@flags
@click.option("--all", "limits", is_flag=True, help="The limits too, which are no settings.")
@as_json
@click.pass_context
def command(context: click.Context, name: str | None, root: Path, flags: tuple[str, ...], limits: bool, as_json: bool) -> int:
    """Shows every setting, or the value of the setting NAME: what counts for a broker or a client that is started now.

    A setting comes from the file dq.toml in the data directory, from a variable DQ_NAME, or from a flag; the last is the
    strongest. If a broker runs that was started with another value, that is said too.
    """
    settings = settings_of(root, flags, strict=True)
    context.meta[COLOR] = settings["color"]
    named = context.get_parameter_source("root") is click.core.ParameterSource.COMMANDLINE
    directory = _Directory(root, "--data" if named else _found_by())
    if name is not None:
        return _show_one(name, settings, directory, as_json=as_json)
    running = _running(root)
    rows = [_row(each, settings, running) for each in SETTINGS.values()]
    if as_json:
        for row in (directory.row(), *rows, *(_limit_rows() if limits else ())):
            json_line(row)
        return Exit.WELL
    line(f"data directory: {one_line(root)} ({directory.said})")
    line()
    columns = ("name", "value", "from", "default", "why")
    table(columns, [[row[column] for column in columns] for row in rows])
    if limits:
        line()
        line(_LIMITS_HEADING)
        line()
        table(("name", "value", "why"), [[row["name"], row["value"], row["why"]] for row in _limit_rows()])
    other = [f"{row['name']}={row['running']}" for row in rows if row["running"] not in (None, row["value"])]
    if other:
        remark(
            f"the broker that runs was started with {', '.join(other)}: by a flag, or before the settings were changed. What "
            "is shown here holds from its next start on"
        )
    return Exit.WELL


@dataclass(frozen=True, slots=True)
class _Directory:
    """Which data directory it is, and who said so."""

    root: Path
    source: str

    @property
    def said(self) -> str:
        """The same for people."""
        there = "" if is_data_directory(self.root) else "; it is not there, `dq serve` makes it"
        return f"{self.source}{there}"

    def row(self) -> dict[str, Any]:
        """As that of a setting."""
        return {
            "name": "directory", "value": str(self.root), "from": self.source, "there": is_data_directory(self.root),
            "variable": DIRECTORY,
        }  # fmt: skip


def _found_by() -> str:
    how = find_root().how
    return "found from here upwards" if how == "found" else how


def _row(setting: Setting, settings: Settings, running: dict[str, str]) -> dict[str, Any]:
    return {
        "name": setting.name,
        "value": setting.text_of(settings[setting.name]),
        "from": settings.source(setting.name),
        "default": setting.text_of(setting.default),
        "variable": setting.variable,
        "takes": setting.takes,
        "of": str(setting.part),
        "why": setting.why,
        "running": running.get(setting.name),
    }


def _running(root: Path) -> dict[str, str]:
    """What the broker that serves the directory was started with; nothing where none does."""
    try:
        with Broker(root) as broker:
            told: dict[str, str] = broker.stats().get("settings", {})
            return told
    except BrokerError:
        return {}


def _show_one(name: str, settings: Settings, directory: _Directory, *, as_json: bool) -> int:
    if name == "directory":
        json_line(directory.row()) if as_json else line(one_line(directory.root))
        return Exit.WELL
    setting = SETTINGS.get(name.removeprefix("DQ_").lower())
    if setting is None:
        known = [*SETTINGS, "directory"]
        raise click.UsageError(f"there is no setting {one_line(name)!r}; {near_names(name, known, 'settings')}")
    json_line(_row(setting, settings, {})) if as_json else line(setting.text_of(settings[setting.name]))
    return Exit.WELL


def _limit_rows() -> list[dict[str, Any]]:
    """The limits with their reasons, which stand below each of them in the source."""
    reasons = _reasons()
    return [
        {"name": name, "value": getattr(LIMITS, name), "from": "dq.config", "why": reasons.get(name, "")}
        for name in Limits.__dataclass_fields__
    ]


def _reasons() -> dict[str, str]:
    try:
        source = inspect.getsource(Limits)
    except OSError:  # installed without its sources
        return {}
    found, name = {}, ""
    for node in ast.parse(source).body[0].body:  # type: ignore[attr-defined]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and name:
            found[name] = " ".join(str(node.value.value).split())
    return found

"""`dq check`: for a monitoring system, by the conventions of Nagios plug-ins: one line, and 0, 1, 2 or 3."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import click

from dq.cli.options import as_json, data_alone, examples
from dq.cli.output import one_line, outcome
from dq.client.broker import Broker
from dq.errors import BrokerError, DqError, InvalidSetting, LogError
from dq.settings.values import settings_of

_WORDS = ("OK", "WARNING", "CRITICAL", "UNKNOWN")


@click.command(epilog=examples("dq check", "dq check --waiting 1000,10000 --dead 1,100"))
@data_alone
@click.option("--waiting", default="", metavar="WARN,CRIT", help="Records that wait in any one sink.")
@click.option("--dead", default="", metavar="WARN,CRIT", help="Dead letters of any one stream.")
@as_json
def command(root: Path, waiting: str, dead: str, as_json: bool) -> int:
    """Says in one line whether all is well.

    It exits with 0 (OK), 1 (warning), 2 (critical) or 3 (unknown), as monitoring systems want it: not by the table of the other
    commands. No broker, a closed stream or sink, or a damaged log is critical; a broker that had to be replaced is a warning,
    and so are delayed records that are held up.
    """
    limits = {"waiting": _limits("--waiting", waiting), "dead": _limits("--dead", dead)}
    try:
        with Broker(root) as broker:
            found = _findings(broker.stats(), limits)
        with contextlib.suppress(LogError):  # of this user; the broker may well be allowed to read it
            settings_of(root, environ={})  # what the broker has in its environment is not known here
    except InvalidSetting as error:
        found = [(2, f"its broker could not be started again: {error}")]
    except BrokerError as error:
        found = [(2, str(error).partition(":")[0])]
    except (DqError, OSError) as error:
        found = [(3, str(error))]
    level = max((level for level, _ in found), default=0)
    said = (
        "; ".join(one_line(text) for _, text in sorted(found, reverse=True)) or f"{one_line(root)} is served, nothing is wrong"
    )
    told = [{"status": _WORDS[level], "says": text} for level, text in sorted(found, reverse=True)]
    outcome({"status": _WORDS[level], "root": str(root), "found": told}, f"DQ {_WORDS[level]} - {said}", as_json=as_json)
    return level


def _findings(status: dict[str, Any], limits: dict[str, tuple[int, int] | None]) -> list[tuple[int, str]]:
    published, consumed = status["publisher_broker"], status["consumer_broker"]
    found: list[tuple[int, str]] = []
    for what, each in (("publisher broker", published), ("consumer broker", consumed)):
        if not each.get("ready", False):
            found.append((2, f"the {what} is not ready"))
        elif each.get("restarts", 0):
            found.append((1, f"the {what} was replaced {each['restarts']} times"))
        found += [(2, f"{name} is closed: {why}") for name, why in each.get("closed", {}).items()]
    for name, sink in consumed.get("sinks", {}).items():
        found += [(2, f"sink {name}: {shard} is damaged: {why}") for shard, why in sink["damaged"].items()]
        count = sum(shard["waiting"] for shard in sink["shards"].values())
        found += _over(limits["waiting"], count, f"{count:,} records wait in sink {name}")
    for name, later in consumed.get("later", {}).items():
        if later["why"]:
            found.append((1, f"{later['waiting']:,} delayed records of {name} are held up: {later['why']}"))
    for name, stream in published.get("streams", {}).items():
        if name.endswith("-dlq"):
            found += _over(limits["dead"], stream["records"], f"{stream['records']:,} dead letters in {name}")
    return found


def _over(limits: tuple[int, int] | None, count: int, text: str) -> list[tuple[int, str]]:
    if limits is None or count < limits[0]:
        return []
    return [(2 if count >= limits[1] else 1, text)]


def _limits(option: str, text: str) -> tuple[int, int] | None:
    if not text:
        return None
    parts = text.split(",")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise click.UsageError(f"{option}: {text!r} is not two whole numbers as 1000,10000")
    return int(parts[0]), int(parts[1])

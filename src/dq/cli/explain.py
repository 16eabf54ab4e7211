"""`dq explain ID`: the biography of one record."""

from __future__ import annotations

import base64
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import orjson

from dq.cli.exits import Exit
from dq.cli.options import as_json, data, examples
from dq.cli.output import json_line, line, one_line, remark, safe, seconds, table
from dq.history import History, HistoryEvent, RecordState, explain, mermaid
from dq.history.words import sentence, standing


@click.command(
    epilog=examples(
        "dq explain orders/0/17",
        "dq explain orders/0/17 --sink billing --payload",
        "dq explain orders-dlq/0/3 --json | jq '.events[] | .kind'",
        "dq explain orders/0/17 --mermaid > record.mmd",
    )
)
@click.argument("record", metavar="ID")
@data
@click.option("--sink", help="Tell of this sink alone.")
@click.option("--payload", is_flag=True, help="Show the payload too.")
@click.option("--mermaid", "as_mermaid", is_flag=True, help="Print a mermaid sequence diagram.")
@as_json
def command(record: str, root: Path, sink: str | None, payload: bool, as_mermaid: bool, as_json: bool) -> int:
    """Tells the biography of one record: published by whom, in whose hands, lost why, retried, given up, replayed, settled.

    ID is stream/bucket/offset, also of a dead letter or of a delayed record. It is read from the logs alone, with or without a
    broker, as far as they are kept.
    """
    if as_mermaid and as_json:
        raise click.UsageError("choose one of --mermaid and --json")
    found = explain(root, record, sink=sink)
    if as_json:
        json_line(found.to_dict() | (_payload_fields(found) if payload else {}))
    elif as_mermaid:
        if payload:
            raise click.UsageError("a diagram shows no payload: leave --payload out")
        sys.stdout.write(safe(mermaid(found)))
    else:
        _show(found, payload=payload)
    return Exit.WELL


def _payload_fields(found: History) -> dict[str, Any]:
    if isinstance(found.payload, bytes):
        return {"base64": base64.b64encode(found.payload).decode("ascii")}
    return {"payload": found.payload}


def _show(found: History, *, payload: bool) -> None:
    line(_title(found))
    if payload:
        text = found.payload if isinstance(found.payload, bytes) else orjson.dumps(found.payload)
        line(f"payload {one_line(text.decode('utf-8', 'backslashreplace'))}")
    line()
    began = next((event.at for event in found.events if event.at is not None), None)
    table(
        ("time", "after", "record", "sink", "what"),
        [(_time(event.at), _after(event, began), event.record, event.sink, sentence(event)) for event in found.events],
        right=("after",),
    )
    line()
    table(("now", "record", "state"), [(state.sink, state.record, standing(state, moment)) for state in _last_states(found)])
    for gap in found.gaps:
        remark(gap)


def _title(found: History) -> str:
    asked = next(record for record in found.records if record.id == found.id)
    labels = [f"{name}={value}" for name in ("key", "topic", "name") if (value := getattr(asked, name))]
    also = [record.id for record in found.records if record.id != found.id]
    others = [f"also {', '.join(also)}"] if also else []
    return one_line("  ".join([found.id, *labels, *others]))


def _last_states(found: History) -> list[RecordState]:
    """What is true now: not of a record that became another one for that sink, if that one is told of."""
    told = {state.record for state in found.states}
    return [state for state in found.states if state.other not in told]


def _after(event: HistoryEvent, began: float | None) -> str:
    if event.at is None or began is None:
        return ""
    gone = event.at - began
    return f"+{seconds(gone)}" if gone >= 0 else f"-{seconds(-gone)}"


def _time(at: float | None) -> str:
    return "" if at is None else moment(at)


def moment(at: float) -> str:
    """A wall time, for people, in their own zone."""
    return datetime.fromtimestamp(at).astimezone().isoformat(sep=" ", timespec="milliseconds")[:23]

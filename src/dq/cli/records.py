"""How records are printed: as JSON, by a format of the user's, or as a line for people."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import click
import orjson

from dq.cli.output import one_line, safe
from dq.model.record import View

Printer = Callable[[Any], str]
FORMAT_HELP: Final = (
    "How to print a record: %i id, %o offset, %b bucket, %S stream, %k key, %t topic, %n name, %d time, %h headers, "
    "%s payload, %a attempt, %% a percent sign; \\n and \\t."
)


def fields_of(record: Any) -> dict[str, Any]:
    """What `--json` prints of a record or a task: what is not there is left out."""
    found: dict[str, Any] = {"id": record.id, "at": record.created_at.timestamp()}
    for name in ("key", "topic", "name", "headers", "attempt", "last_error"):
        value = getattr(record, name, None)
        if value:
            found[name] = value
    for name, moment in (("due", record.due_at), ("expires", record.expires_at)):
        if moment is not None:
            found[name] = moment.timestamp()
    if isinstance(record.payload, bytes):
        found["base64"] = base64.b64encode(record.payload).decode("ascii")
    else:
        found["payload"] = record.payload
    return found


def as_json(record: View) -> str:
    """A record as one line of JSON."""
    return safe(orjson.dumps(fields_of(record)).decode())


def payload_text(record: Any) -> str:
    """The payload alone: JSON, or bytes as they are where they are text."""
    payload = record.payload
    if isinstance(payload, bytes):
        return safe(payload.decode("utf-8", "backslashreplace"))
    return safe(orjson.dumps(payload).decode())


def for_people(record: View) -> str:
    """When, which, its labels, its payload."""
    labels = "".join(f" {name}={one_line(value)}" for name in ("key", "topic", "name") if (value := getattr(record, name)))
    return f"{_local(record.created_at)} {record.id}{labels} {payload_text(record).replace(chr(10), chr(92) + 'n')}"


def _local(moment: datetime) -> str:
    return moment.astimezone().isoformat(sep=" ", timespec="milliseconds")[:23]


_PARTS: Final[dict[str, Printer]] = {
    "i": lambda record: record.id,
    "o": lambda record: str(record.offset),
    "b": lambda record: str(record.bucket),
    "S": lambda record: record.stream,
    "k": lambda record: one_line(record.key or ""),
    "t": lambda record: one_line(record.topic or ""),
    "n": lambda record: one_line(record.name),
    "d": lambda record: record.created_at.isoformat(),
    "h": lambda record: one_line(orjson.dumps(record.headers).decode()),
    "s": payload_text,
    "a": lambda record: str(getattr(record, "attempt", "")),
}
_PLAIN: Final = {"\\n": "\n", "\\t": "\t", "%%": "%"}


def by_format(text: str) -> Printer:
    """A printer by a format as `FORMAT_HELP` tells it. Raises click.UsageError."""
    parts: list[str | Printer] = []
    place = 0
    while place < len(text):
        two = text[place : place + 2]
        if two in _PLAIN:
            parts.append(_PLAIN[two])
        elif two[0] == "%":
            if two[1:] not in _PARTS:
                raise click.UsageError(
                    f"--format: {two!r} means nothing; known are {' '.join('%' + name for name in _PARTS)} %%"
                )
            parts.append(_PARTS[two[1:]])
        else:
            parts.append(two[0])
            place += 1
            continue
        place += 2
    return lambda record: "".join(part if isinstance(part, str) else part(record) for part in parts)


def printer(form: str | None, *, json: bool, plain: Printer) -> Printer:
    """What a command prints of a record. Raises click.UsageError."""
    if form is not None and json:
        raise click.UsageError("choose one of --json and --format")
    if form is not None:
        return by_format(form)
    return as_json if json else plain

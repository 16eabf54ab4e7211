"""The table of all commands with the arguments they are tried with, and the directories they are tried in."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from dq import BrokerManager, Consumer, Publisher
from dq.cli.commands import COMMANDS, dq
from stage import until

NASTY = "\x1b[2J\x1b]52;c;Zm9v\x07\r\x9b31m\u202e\n\x7fend"
"""What a terminal obeys: it is cleared, its clipboard set, its bell rung, its line and its direction turned."""
ROWS: dict[str, tuple[str, ...]] = {
    "status": (),
    "config": (),
    "publish": ("free", "[1]"),
    "consume": ("free", "--sink", "takes", "-n", "1", "--timeout", "0.2"),
    "tail": ("orders",),
    "peek": ("orders",),
    "streams": (),
    "stream show": ("orders",),
    "stream create": ("made{n}",),
    "stream remove": ("free", "free/0/{n}"),
    "stream trim": ("free", "--max-records", "9", "--yes"),
    "stream destroy": ("gone{n}", "--yes"),
    "sinks": (),
    "sink show": ("billing",),
    "sink pause": ("spare{n}",),
    "sink resume": ("spare{n}",),
    "sink seek": ("spare{n}", "oldest", "--yes"),
    "sink reset": ("spare{n}", "--yes"),
    "sink destroy": ("spare{n}", "--yes"),
    "who": (),
    "dlq list": ("orders",),
    "dlq show": ("orders", "orders-dlq/0/0"),
    "dlq replay": ("orders", "orders-dlq/0/1{n}"),
    "dlq discard": ("orders", "orders-dlq/0/{n}"),
    "log stats": (),
    "explain": ("orders/0/0",),
    "at": ("orders", "now"),
    "top": ("-n", "1", "-i", "0.1"),
    "metrics": (),
    "check": (),
    "events": ("{root}",),
    "export": ("orders",),
    "import": ("{file}",),
    "verify": ("{root}",),
    "repair": ("{root}/streams/orders/0", "--salvage", "-"),
    "stop": ("{root}",),
}
"""By command; `{root}` where the directory is an argument, else it is named by `--data`; `{n}` counts the runs of
what can be done once."""
RUNS = range(1, 5)
ELSEWHERE = frozenset({"demo", "serve", "work", "bench", "completion"})
"""They run for long or need no directory: they are tried by themselves."""


_DEAD = 15


def every_name() -> list[str]:
    """All commands and what they have below them, as `stream show`."""
    found, top = list[str](), click.Context(dq, info_name="dq")
    for name in COMMANDS:
        command = dq.get_command(top, name)
        inner = command.list_commands(top) if isinstance(command, click.Group) else []
        found += [f"{name} {each}" for each in inner] or [name]
    return found


def has_json(name: str) -> bool:
    """Whether a command takes `--json`."""
    command: click.Command | None = dq
    for part in name.split():
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), part)
    assert command is not None
    return any("--json" in each.opts for each in command.params)


def line_of(name: str, root: Path, *more: str, run: int = 1) -> list[str]:
    """The command line of a row, for a directory."""
    row = [part.format(root=root, n=run, file=root.with_name("records.jsonl")) for part in ROWS[name]]
    where = [] if any("{root}" in part for part in ROWS[name]) else ["--data", str(root)]
    return [*name.split(), *row, *where, *more]


@contextmanager
def lived_in(root: Path) -> Iterator[BrokerManager]:
    """A broker with records, one of them delayed, dead letters, and tasks in hand, all of which would steer a terminal."""
    root.with_name("records.jsonl").write_text('{"id": "brought/0/0", "stream": "brought", "payload": 1}\n')
    with BrokerManager(root) as broker:
        for name in ("orders", "free", "brought", *(f"gone{run}" for run in RUNS)):
            broker.stream(name, buckets=1)
        for run in RUNS:
            broker.sink(f"spare{run}", "free")
        broker.sink("billing", "orders", max_attempts=1)
        with Publisher(broker, "orders") as publisher:
            for number in range(_DEAD + 1):
                payload = {"n": number, "text": NASTY}
                publisher.publish(payload, key=NASTY, topic="t", name=NASTY, headers={"h": NASTY, NASTY: "v"})
            publisher.publish(NASTY, delay=3600)
        with Publisher(broker, "free") as publisher:
            publisher.publish_many(range(9))
        with Consumer(broker, "orders", sink="billing", prefetch=1) as consumer:
            tasks = iter(consumer)
            for _ in range(_DEAD):
                next(tasks).retry(error=NASTY)
            held = next(tasks)
            held.extend(600, note=NASTY)
            until(lambda: broker.dlq("orders").count() == _DEAD, what="all dead letters")
            yield broker
            held.release()


def copied(broker: BrokerManager, root: Path) -> Path:
    """What stands on the disk, as another directory that nobody serves."""
    shutil.copytree(broker.root, root, ignore=shutil.ignore_patterns("*.sock"))
    shutil.copy(broker.root.with_name("records.jsonl"), root.with_name("records.jsonl"))
    return root


def flipped(log: Path) -> None:
    """A byte in the middle of a log's first segment, changed."""
    segment = min(log.glob("*.jsonl"))
    content = bytearray(segment.read_bytes())
    content[len(content) // 3] ^= 0x01
    segment.write_bytes(content)


def tree(root: Path) -> dict[str, tuple[int, int]]:
    """All that is below a directory: sizes in bytes and times of change in ns."""
    found = {}
    for path in [root, *root.rglob("*")] if root.exists() else []:
        about = path.lstat()
        found[str(path.relative_to(root))] = (about.st_size, about.st_mtime_ns)
    return found

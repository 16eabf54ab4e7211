"""An embedded queue's own file, and where the rest of it lies: it is a directory of its own, without a broker."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from dq.log.files import Files
from dq.log.format import FORMAT, Identity, Malformed, seal, want
from dq.log.sealed import blamed, read_sealed

KINDS = {"persistent": "a PersistentQueue", "mpmc": "an MpmcQueue", "standard": "a dq.embedded.Queue"}
ITEMS, CURSORS = "items", "cursors"
RAW_SUFFIX = ".bytes"


@dataclass(frozen=True, slots=True)
class QueueLayout:
    """The paths of one embedded queue.

    ::

        queue.json  queue.lock  clean.json  reserve
        items/<offset>.jsonl  items/<offset>.bytes  cursors/<offset>.jsonl
        quarantine/
    """

    root: Path

    @property
    def description(self) -> Path:
        return self.root / "queue.json"

    @property
    def lock(self) -> Path:
        return self.root / "queue.lock"

    @property
    def clean_mark(self) -> Path:
        return self.root / "clean.json"

    @property
    def reserve(self) -> Path:
        return self.root / "reserve"

    @property
    def items(self) -> Path:
        return self.root / ITEMS

    @property
    def cursors(self) -> Path:
        return self.root / CURSORS

    @property
    def quarantine(self) -> Path:
        return self.root / "quarantine"


@dataclass(frozen=True, slots=True)
class QueueDescription:
    """What `queue.json` says: which of KINDS it is, and the uuid that its segments have."""

    kind: str
    uuid: str

    def encode(self) -> bytes:
        """One JSON line, sealed as the headers of a log are."""
        fields: dict[str, Any] = {"format": FORMAT, "kind": self.kind, "uuid": self.uuid}
        return seal(orjson.dumps(fields)[:-1])[0]

    def identity(self, log: str) -> Identity:
        """Whose log ITEMS or CURSORS is."""
        return Identity(log, 0, self.uuid, 0, kind="queue")


def is_queue(root: Path) -> bool:
    """Whether a directory is an embedded queue."""
    return QueueLayout(root).description.is_file()


def read_queue(files: Files, root: Path) -> QueueDescription:
    """What is kept of an embedded queue.

    Raises:
        FileNotFoundError: there is none. Damaged, NewerFormat, LogError: its file cannot be used.
    """
    path = QueueLayout(root).description
    with blamed(path, "restore it from a backup"):
        fields = read_sealed(files, path)
        kind, uuid = want(fields, "kind", str), want(fields, "uuid", str)
        if kind not in KINDS:
            raise Malformed(f"its kind is {kind!r:.100}")
        return QueueDescription(kind, uuid)

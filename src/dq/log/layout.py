"""Where everything lies below a data directory: the only place that knows a path."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from dq.log.format import segment_name

TMP_SUFFIX = ".tmp"
LATER_LOG = "later:"
"""How the logs of delayed records are named among those of the sinks: no sink can have such a name."""
REPAIR = "python -m dq.main repair"
"""The command that errors name."""
_SEGMENT = re.compile(r"([0-9]{20})\.jsonl")


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one data directory.

    ::

        dq.lock  dq.json  manager.sock
        streams/writer.lock  streams/clean.json  streams/<stream>/stream.json  streams/<stream>/<bucket>/<offset>.jsonl
        streams/<stream>/gone.json
        sinks/writer.lock  sinks/reserve  sinks/<sink>/sink.json  sinks/<sink>/<offset>.jsonl
        sinks/later:<stream>/<offset>.jsonl
        quarantine/  import.lock
    """

    root: Path

    @property
    def manager_lock(self) -> Path:
        return self.root / "dq.lock"

    @property
    def instance(self) -> Path:
        return self.root / "dq.json"

    @property
    def socket(self) -> Path:
        return self.root / "manager.sock"

    @property
    def streams(self) -> Path:
        return self.root / "streams"

    @property
    def streams_lock(self) -> Path:
        return self.streams / "writer.lock"

    @property
    def clean_mark(self) -> Path:
        return self.streams / "clean.json"

    def stream(self, name: str) -> Path:
        return self.streams / name

    def stream_file(self, name: str) -> Path:
        return self.streams / name / "stream.json"

    def gone_file(self, name: str) -> Path:
        return self.streams / name / "gone.json"

    def bucket(self, name: str, bucket: int) -> Path:
        return self.streams / name / str(bucket)

    @property
    def sinks(self) -> Path:
        return self.root / "sinks"

    @property
    def sinks_lock(self) -> Path:
        return self.sinks / "writer.lock"

    @property
    def reserve(self) -> Path:
        return self.sinks / "reserve"

    def sink(self, name: str) -> Path:
        return self.sinks / name

    def sink_settings(self, name: str) -> Path:
        return self.sinks / name / "sink.json"

    def later(self, stream: str) -> Path:
        return self.sinks / f"{LATER_LOG}{stream}"

    @property
    def import_lock(self) -> Path:
        return self.root / "import.lock"

    @property
    def quarantine(self) -> Path:
        return self.root / "quarantine"


def segment_path(directory: Path, first: int) -> Path:
    """The segment whose first record has offset `first`."""
    return directory / segment_name(first)


def segments_among(names: list[str]) -> list[int]:
    """The first offsets of the segments among file names, ascending."""
    return sorted(int(match[1]) for match in map(_SEGMENT.fullmatch, names) if match)


def repair_hint(path: Path, position: int) -> str:
    """What can be done about damage in a segment."""
    repair = f"{REPAIR} {shlex.quote(str(path))}"
    return (
        f"Restore it from a backup; or see what can be saved: {repair} --salvage OUT.jsonl; "
        f"or give up what follows, which is kept in quarantine: {repair} --truncate-at {position}"
    )

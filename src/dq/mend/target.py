"""Which log a path means, and the right to change it: a log is mended only while no broker serves it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dq.config import LIMITS, MIB
from dq.errors import BrokerNotRunning, BrokerRunning, InvalidSetting
from dq.log.journal import BATCH_BYTES_MAX
from dq.log.layout import Layout, segments_among
from dq.log.locks import hold
from dq.log.queue_file import CURSORS, ITEMS, QueueLayout, is_queue

NOTES_BYTES_MAX = 1024 * MIB


@dataclass(frozen=True, slots=True)
class Target:
    """A log, or one of its segments.

    Attributes:
        root: its data directory.
        kind: "stream", "sink" or "queue".
        name: of the stream or sink; of an embedded queue ITEMS or CURSORS.
        bucket: of the stream; None where the path means the whole stream, and for a sink.
        segment: first offset of the segment that the path means; None where it means a directory.
    """

    root: Path
    kind: str
    name: str
    bucket: int | None
    segment: int | None

    @property
    def log(self) -> str:
        """As `verify` names it."""
        if self.kind == "queue":
            return self.name
        return f"{self.kind}s/{self.name}" + (f"/{self.bucket}" if self.bucket is not None else "")

    @property
    def id(self) -> str:
        """What stands before the offset in the id of its records."""
        return self.log.removeprefix(f"{self.kind}s/")

    @property
    def origin(self) -> str:
        """As quarantine names it."""
        return {"stream": f"{self.name}.{self.bucket}", "sink": f"sink:{self.name}", "queue": self.name}[self.kind]

    @property
    def batch_bytes_max(self) -> int:
        """Bytes of records that a batch of it can have."""
        if self.kind == "sink":
            return NOTES_BYTES_MAX
        return BATCH_BYTES_MAX if self.kind == "queue" else max(LIMITS.kept_bytes_max, LIMITS.batch_bytes_max)

    @property
    def directory(self) -> Path:
        """Where the segments are; of a whole stream its own directory."""
        return self.root / self.log


def check_data_directory(root: Path) -> None:
    """Raises BrokerNotRunning where there is no data directory; InvalidSetting where there is an embedded queue."""
    if is_queue(root):
        raise InvalidSetting(f"{root} is an embedded queue, and has no streams and no sinks: `dq verify {root}` tells of it")
    if not Layout(root).instance.exists():
        raise BrokerNotRunning(f"{root} is no data directory, and no broker runs for it: `dq serve` starts one")


def target_of(path: Path | str) -> Target:
    """What a path means: a segment file, or the directory of a bucket, a stream or a sink.

    Raises:
        InvalidSetting: it is none of these.
    """
    path = Path(path).absolute()
    segments = segments_among([path.name])
    segment, place = (segments[0], path.parent) if segments else (None, path)
    if place.name in (ITEMS, CURSORS) and is_queue(place.parent):
        return Target(place.parent, "queue", place.name, None, segment)
    for kind, depth in (("sink", 1), ("stream", 1), ("stream", 2)):
        if len(place.parts) > depth + 1 and place.parts[-1 - depth] == f"{kind}s" and place.is_dir():
            name, rest = place.parts[-depth], place.parts[len(place.parts) - depth + 1 :]
            if all(part.isdecimal() for part in rest) and (segment is None or rest or kind == "sink"):
                return Target(place.parents[depth], kind, name, int(rest[0]) if rest else None, segment)
    raise InvalidSetting(
        f"{path} is no log: name a segment (…/streams/STREAM/BUCKET/….jsonl, …/sinks/SINK/….jsonl, of an embedded queue "
        "…/items/….jsonl) or the directory that has it"
    )


@contextlib.contextmanager
def unserved(root: Path) -> Iterator[None]:
    """Holds what the brokers of a data directory, or the owner of a queue, would hold. Raises BrokerRunning, InUse."""
    layout = Layout(root)
    if is_queue(root):
        with hold(QueueLayout(root).lock, 0.0, f"the queue {root}", advice="close it there first"):
            yield
        return
    with contextlib.ExitStack() as locks:
        for lock in (layout.streams_lock, layout.sinks_lock):
            if lock.parent.is_dir():
                locks.enter_context(hold(lock, 0.0, f"the directory {lock.parent}", error=BrokerRunning))
        yield

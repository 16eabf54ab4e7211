"""Reading a log exactly as a start of the broker reads it, without changing a byte."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from dq.config import LIMITS
from dq.log.bucket_log import recover
from dq.log.directories import check_directory
from dq.log.files import Files
from dq.log.format import Identity
from dq.log.item_recovery import recover_items
from dq.log.journal import recover_journal
from dq.log.layout import Layout
from dq.log.quarantine import Quarantine
from dq.log.queue_file import ITEMS, QueueLayout, read_queue
from dq.log.recovery import Recovered
from dq.log.sink_log import Replay, recover_sink, sink_identity
from dq.log.stream_file import StreamDescription


class LookingFiles(Files):
    """Files that are read and never written: what recovery would write is left out."""

    def open_write(self, path: Path) -> int:
        return self.open_read(path)

    def fdatasync(self, fd: int) -> None:
        """Nothing was written."""

    def sync_directory(self, path: Path) -> None:
        """Nothing was written."""

    def truncate(self, fd: int, size: int) -> None:
        """What recovery cuts stays; it says where."""

    def write_some(self, fd: int, group: Sequence[bytes | bytearray | memoryview], position: int) -> int:
        """Recovery writes nothing but to quarantine."""
        raise AssertionError("looking at a log wrote to it")


class NoQuarantine(Quarantine):
    """Takes nothing away."""

    def keep_bytes(self, origin: str, content: bytes) -> Path:
        return self._directory / origin

    def take_file(self, origin: str, path: Path) -> Path:
        return self._directory / origin


def look_at_bucket(files: LookingFiles, root: Path, found: StreamDescription, bucket: int) -> Recovered:
    """What the next start would make of the log of a bucket. Raises as `BucketLog.open`."""
    layout, settings = Layout(root), found.settings
    directory, identity = layout.bucket(found.name, bucket), Identity(found.name, bucket, found.uuid, found.epoch)
    quarantine = NoQuarantine(files, layout.quarantine)
    return recover(files, directory, identity, settings.segment_bytes, LIMITS, quarantine, settings.durability)


def look_at_sink(files: LookingFiles, root: Path, sink: str) -> tuple[Recovered, Replay]:
    """What the next start would make of the log of a sink, and the notes that it would begin with. Raises as `SinkLog.open`."""
    layout = Layout(root)
    return recover_sink(files, layout.sink(sink), sink_identity(sink), NoQuarantine(files, layout.quarantine), LIMITS)


def look_at_queue(root: Path, log: str) -> Callable[[], Recovered]:
    """What the next opening of an embedded queue would make of its ITEMS or CURSORS, when it is called.

    It raises as `recover_items`, and FileNotFoundError.
    """

    def look() -> Recovered:
        files, layout = LookingFiles(), QueueLayout(root)
        identity, quarantine = read_queue(files, root).identity(log), NoQuarantine(files, layout.quarantine)
        directory = layout.root / log
        check_directory(files, directory)
        if log == ITEMS:
            return recover_items(files, directory, identity, quarantine, mend=False).journal
        visit = Replay(directory).visit
        return recover_journal(files, directory, identity, quarantine, LIMITS, LIMITS.segment_bytes, visit)

    return look

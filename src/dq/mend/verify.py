"""`verify`: reads every log of a data directory as a start would, and says what it found. It changes nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dq.config import LIMITS
from dq.core.sink import ShardStart, SinkCore
from dq.errors import Damaged, InvalidName, InvalidSetting, LogError, NewerFormat
from dq.log.backend import backend_of
from dq.log.directories import check_directory
from dq.log.files import mapped
from dq.log.gone_file import read_gone
from dq.log.layout import Layout
from dq.log.locks import is_held
from dq.log.queue_file import CURSORS, ITEMS, QueueLayout, is_queue
from dq.log.recovery import Recovered
from dq.log.sink_file import read_sink
from dq.log.stream_file import StreamDescription, read_stream
from dq.mend.look import LookingFiles, look_at_bucket, look_at_queue, look_at_sink
from dq.model.names import check_name
from dq.model.settings import MEMORY

_TRIES_UNDER_A_BROKER = 3
WHOLE, TORN, DAMAGED, NEWER, UNREADABLE, IN_MEMORY = "whole", "torn", "damaged", "newer", "unreadable", "in memory"
BY_ITS_CLASS = "kept by its class"
_FAULTS = frozenset({DAMAGED, NEWER, UNREADABLE})


@dataclass(frozen=True, slots=True)
class LogCheck:
    """What was found of one log.

    Attributes:
        log: its directory, from the data directory on: `streams/emails/0`, `sinks/mailers`.
        state: "whole"; "torn": an unconfirmed end, which the next start takes away to quarantine, or which is just being
            written; "damaged"; "newer": of a newer version of dq; "unreadable"; "in memory": not looked at.
        records: in it; of a sink its notes.
        segments, bytes: in it, without what is torn.
        torn_bytes: at its end.
        why: what is wrong, and what can be done; "" where nothing is.
    """

    log: str
    state: str
    records: int = 0
    segments: int = 0
    bytes: int = 0
    torn_bytes: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found in a data directory.

    Attributes:
        root: the directory.
        running: whether a broker serves it, or somebody has the queue open: what is torn may just be being written then.
        logs: each of them, by name.
    """

    root: Path
    running: bool
    logs: list[LogCheck] = field(default_factory=list)

    @property
    def faults(self) -> list[LogCheck]:
        """The logs that the next start would not open."""
        return [log for log in self.logs if log.state in _FAULTS]

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        logs = [asdict(log) for log in self.logs]
        return {"root": str(self.root), "running": self.running, "ok": not self.faults, "logs": logs}


def verify(root: Path | str) -> Verification:
    """Checks every log of a data directory: all checksums, all places, and that no sink is ahead of its streams.

    Args:
        root: the data directory of a broker, or that of an embedded queue.

    Raises:
        LogError: the directory itself cannot be read.
    """
    root = Path(root)
    if is_queue(root):
        running = is_held(QueueLayout(root).lock)
        return Verification(root, running, [_check_log(name, look_at_queue(root, name), running) for name in (ITEMS, CURSORS)])
    return _Verifier(root).run()


def _check_log(log: str, look: Callable[[], Recovered], running: bool) -> LogCheck:
    for _ in range(_TRIES_UNDER_A_BROKER if running else 1):
        try:
            return _sound(log, look())
        except (LogError, FileNotFoundError) as error:
            check = _fault(log, error)
    return check


def is_served(root: Path) -> bool:
    """Whether a broker holds the streams of a data directory."""
    return is_held(Layout(root).streams_lock)


class _Verifier:
    def __init__(self, root: Path) -> None:
        self._files, self._root, self._layout = LookingFiles(), root, Layout(root)
        self._streams: dict[str, StreamDescription] = {}
        self._ends: dict[tuple[str, int], int] = {}

    def run(self) -> Verification:
        check_directory(self._files, self._root)
        found = Verification(self._root, is_served(self._root))
        # Under a running broker a segment may be deleted while it is read: then it is looked at once more.
        tries = _TRIES_UNDER_A_BROKER if found.running else 1
        for name in self._names(self._layout.streams, "stream"):
            found.logs.extend(self._check_stream(name, tries))
        for name in self._names(self._layout.sinks, "sink"):
            found.logs.append(self._check_sink(name, tries, running=found.running))
        return found

    def _names(self, directory: Path, kind: str) -> Iterator[str]:
        if not directory.exists():
            return
        with mapped(directory, "list"):
            names = self._files.list_directory(directory)
        for name in names:
            with contextlib.suppress(InvalidName):
                if (directory / check_name(kind, name)).is_dir():
                    yield name

    # --- streams -----------------------------------------------------------------------------------------------------

    def _check_stream(self, name: str, tries: int) -> Iterator[LogCheck]:
        try:
            found = self._streams[name] = read_stream(self._files, self._root, name)
            read_gone(self._files, self._root, found)
        except (LogError, FileNotFoundError) as error:
            yield _fault(f"streams/{name}", error)
            return
        if found.settings.backend == MEMORY:
            yield LogCheck(f"streams/{name}", IN_MEMORY)
            return
        if found.settings.backend != "json":
            yield _own_class(found)
            return
        for bucket in range(found.settings.bucket_count):
            for _ in range(tries):
                check = self._check_bucket(found, bucket)
                if check.state not in _FAULTS:
                    break
            yield check

    def _check_bucket(self, found: StreamDescription, bucket: int) -> LogCheck:
        log, directory = f"streams/{found.name}/{bucket}", self._layout.bucket(found.name, bucket)
        try:
            check_directory(self._files, directory)
            recovered = look_at_bucket(self._files, self._root, found, bucket)
        except (LogError, FileNotFoundError) as error:
            return _fault(log, error)
        self._ends[found.name, bucket] = recovered.end.offset
        return _sound(log, recovered)

    # --- sinks -------------------------------------------------------------------------------------------------------

    def _check_sink(self, name: str, tries: int, *, running: bool) -> LogCheck:
        log = f"sinks/{name}"
        for _ in range(tries):
            try:
                recovered, core = self._read_sink(name)
                if not running:  # else the streams have moved on since they were read
                    self._check_cursors(core)
                return _sound(log, recovered)
            except (LogError, FileNotFoundError) as error:
                check = _fault(log, error)
        return check

    def _read_sink(self, name: str) -> tuple[Recovered, SinkCore]:
        found = read_sink(self._files, self._root, name)
        if found is None:
            raise Damaged(f"{self._layout.sink_settings(name)} is missing: put it back from a backup, or remove the directory")
        recovered, replay = look_at_sink(self._files, self._root, name)
        core = SinkCore(name, found.settings, LIMITS)
        for note in replay.notes:
            core.replay(note)
        return recovered, core

    def _check_cursors(self, core: SinkCore) -> None:
        """Asks the sink what it would say to the next start of its streams."""
        for shard in core.floors():
            found, end = self._streams.get(shard[0]), self._ends.get(shard)
            if found is not None and end is not None:
                lossy, epoch = found.settings.durability != "sync", found.epoch + 1
                starts = [ShardStart(start.epoch, start.ends[shard[1]], lossy or start.accepted) for start in found.starts]
                core.add_shard(shard, end, found.uuid, epoch, [*starts, ShardStart(epoch, end, lossy)])


def _own_class(found: StreamDescription) -> LogCheck:
    """A stream that a class of the user's own keeps: whether the next start finds the class; its records are its own."""
    log, backend = f"streams/{found.name}", found.settings.backend
    try:
        backend_of(found.settings)
    except (LogError, InvalidSetting, TypeError) as error:
        return LogCheck(log, UNREADABLE, why=str(error))
    return LogCheck(log, BY_ITS_CLASS, why=f"the backend {backend!r} keeps it, and can alone say whether its records are whole")


def _sound(log: str, recovered: Recovered) -> LogCheck:
    first = next(iter(recovered.sizes), recovered.end.offset)
    torn = recovered.report.torn_bytes
    return LogCheck(
        log,
        TORN if torn else WHOLE,
        recovered.end.offset - first,
        len(recovered.sizes),
        sum(recovered.sizes.values()),
        torn,
        f"its last {torn} bytes are of a batch that was not confirmed; the next start moves them to quarantine" if torn else "",
    )


def _fault(log: str, error: LogError | FileNotFoundError) -> LogCheck:
    if isinstance(error, FileNotFoundError):
        return LogCheck(log, DAMAGED, why=f"{error.filename} is missing: put it back from a backup")
    state = NEWER if isinstance(error, NewerFormat) else DAMAGED if isinstance(error, Damaged) else UNREADABLE
    return LogCheck(log, state, why=str(error))

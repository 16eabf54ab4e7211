"""What all embedded queues stand on: a directory with one owner, the log of its items and the log of its cursors."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson

from dq.config import KIB, LIMITS, MIB
from dq.errors import Closed, DiskFull, DqError, Forked, InUse, InvalidSetting, LogError, SettingsMismatch
from dq.log.directories import make_directory
from dq.log.file_system import check_file_system
from dq.log.files import Files, mapped
from dq.log.format import FORMAT, Malformed, seal, want, want_count
from dq.log.item_log import SEGMENT_BYTES, ItemLog, SegmentInfo, raw_path
from dq.log.item_recovery import RecoveredItems, drop_consumed, recover_items
from dq.log.journal import Journal, recover_journal
from dq.log.locks import HeldLock, hold
from dq.log.quarantine import Quarantine
from dq.log.queue_file import CURSORS, ITEMS, KINDS, QueueDescription, QueueLayout, read_queue
from dq.log.recovery import clean_end
from dq.log.reserve import Reserve
from dq.log.sealed import read_sealed
from dq.log.sink_log import Replay

DURABILITIES = ("os", "sync")
CURSOR_SEGMENT_BYTES = 384 * KIB
"""A log of cursors begins anew, with what they are now, at this size: together with the next two, an empty queue keeps
less than a MiB."""
FRESH_BYTES = 256 * KIB
"""A queue that is empty begins a new segment, and deletes the old one, where that is larger."""
RESERVE_BYTES = 128 * KIB
"""Kept free, so that items can still be taken out when the disk is full: a thousand times one, until a segment goes."""
_FLUSH_SECONDS = 1.0
"""A new log of cursors is flushed before the old one is deleted, but not more often: a thousand `pop` take 4 ms, a flush up to
2 ms. A power cut right after a thousand may so bring back what was popped of the segments that are kept."""
_MARK_SEGMENTS_MAX = 10_000  # a mark of more is not written, and the log is read at the next start
_ADVICE = "one process at a time owns a queue; close it there first"
_FOREIGN = ("dq.json", "streams", "sinks")  # what a broker's data directory has

Note = dict[str, Any]


def checked_path(path: str | os.PathLike[str]) -> Path:
    """The absolute path of a queue. Raises InvalidSetting where it is none, or a broker's."""
    text = os.fspath(path)
    if not isinstance(text, str) or not text or "\0" in text:
        raise InvalidSetting(f"the path of a queue is a str or a Path, not {text!r}")
    root = Path(text).absolute()
    for name in _FOREIGN:
        if (root / name).exists():
            raise InvalidSetting(
                f"{root} is the data directory of a broker (it has {name}): attach to it with dq.connect, and give an embedded "
                "queue a directory of its own"
            )
    return root


class Store:
    """One open queue's directory. Everything but `close` is called with its lock held.

    Args:
        path: the directory; made if it is missing.
        kind: one of `queue_file.KINDS`.
        durability: "os" leaves the flush to the system, "sync" flushes before each call returns.
        wall: the clock, for tests.

    Attributes:
        notes: what the log of the cursors says, from its last snapshot on.
        ended: why it cannot be used any more; None while it can.
        lock: around everything.

    Raises:
        InUse: it is open already; the message has the pid. InvalidSetting: a broker's directory, or a foreign one.
        SettingsMismatch: a queue of another kind. Damaged, NewerFormat, LogError: it cannot be read.
    """

    items: ItemLog  # once they are open
    state: Callable[[], bytes]  # set by the queue: gives a note of all the cursors

    def __init__(self, path: str | os.PathLike[str], kind: str, durability: str, wall: Callable[[], float] = time.time) -> None:
        if durability not in DURABILITIES:
            raise InvalidSetting(f'durability of an embedded queue is "os" or "sync", not {durability!r}')
        self.root, self._files, self._wall = checked_path(path), Files(), wall
        self._flushes = durability == "sync"
        self.layout = QueueLayout(self.root)
        self.ended: DqError | None = None
        self.lock = threading.Lock()
        self._flushed_at = 0.0
        make_directory(self._files, self.root)
        check_file_system(self.root)
        self._lock = take_lock(self.root)
        try:
            self._described = self._describe(kind)
            self._quarantine = Quarantine(self._files, self.layout.quarantine)
            self._reserve = Reserve(self._files, self.layout.reserve, RESERVE_BYTES)
            self.notes = self._open_cursors()
        except BaseException:
            self._lock.release()
            raise
        self._reserve.fill()

    def _describe(self, kind: str) -> QueueDescription:
        files, root = self._files, self.root
        try:
            described = read_queue(files, root)
        except FileNotFoundError:
            return self._make(kind)
        if described.kind != kind:
            raise SettingsMismatch(f"{root} is {KINDS[described.kind]}, not {KINDS[kind]}: open it as what it is")
        return described

    def _make(self, kind: str) -> QueueDescription:
        lock = self.layout.lock.name
        known = {lock, f"{lock}.pid", ITEMS, CURSORS, f"{self.layout.description.name}.tmp"}
        strangers = [name for name in self._files.list_directory(self.root) if name not in known]
        if strangers:
            raise InvalidSetting(
                f"{self.root} is no queue, and not empty (it has {strangers[0]}): choose a directory of its own"
            )
        described = QueueDescription(kind, str(uuid4()))
        for directory in (self.layout.items, self.layout.cursors):
            make_directory(self._files, directory)
        with mapped(self.layout.description, "write"):
            self._files.write_atomically(self.layout.description, described.encode())
        return described

    # --- cursors -----------------------------------------------------------------------------------------------------
    def _open_cursors(self) -> list[Note]:
        directory, replay = self.layout.cursors, Replay(self.layout.cursors)
        identity = self._described.identity(CURSORS)
        make_directory(self._files, directory)
        recovered = recover_journal(
            self._files, directory, identity, self._quarantine, LIMITS, CURSOR_SEGMENT_BYTES, replay.visit
        )
        self.cursors = Journal(self._files, directory, identity, recovered, MIB << 20, flushes=self._flushes, wall=self._wall)
        # A segment that has no snapshot yet is not gone on with: the one before it may hold what counts.
        self.full_at = 0 if self.cursors.segment in (-1, self.cursors.next) else CURSOR_SEGMENT_BYTES
        return replay.notes

    def note(self, line: bytes) -> None:
        """Notes a change of the cursors.

        Raises:
            DiskFull: no room even with the reserve; nothing is noted. SyncFailed, StreamReadOnly: the disk fails.
        """
        if self.cursors.position >= self.full_at:
            self.snapshot(self.state())
        try:
            self.cursors.append(line, 1)
        except DiskFull:
            if not self._reserve.release():
                raise
            self._use_reserve()
            self.cursors.append(line, 1)

    def _use_reserve(self) -> None:
        """On a full disk notes go on in the room of the reserve: half of it is written, then begun anew in the other half.

        It is for taking out alone: as long as it cannot be filled again nothing is put in.
        """
        self.items.guard(self._refill)
        self.snapshot(self.state())
        self.full_at = min(self.full_at, RESERVE_BYTES // 2)

    def _refill(self) -> None:
        if not self._reserve.fill():
            raise DiskFull(f"no room in {self.root}: nothing was stored; free some space, or take items out")
        self.full_at = CURSOR_SEGMENT_BYTES

    def snapshot(self, line: bytes) -> None:
        """Begins the log of the cursors anew. Where there is no room for that the old one goes on."""
        cursors = self.cursors
        try:
            if cursors.segment == cursors.next:  # there is a segment, and nothing in it
                cursors.append(line, 1)
            else:
                now = time.monotonic()
                flush = now - self._flushed_at >= _FLUSH_SECONDS
                cursors.begin(line, 1, flush=flush)
                self._flushed_at = now if flush else self._flushed_at
        except DiskFull:
            if self._reserve.release():
                self._use_reserve()
            elif cursors.segment in (-1, cursors.next):
                raise
            else:
                self.full_at = cursors.position + CURSOR_SEGMENT_BYTES // 16
            return
        cursors.drop_below(cursors.segment)
        usual = RESERVE_BYTES // 2 if self.items.guarded else CURSOR_SEGMENT_BYTES
        self.full_at = max(usual, 2 * cursors.position)

    # --- items -------------------------------------------------------------------------------------------------------
    def open_items(self, floor: int) -> None:
        """Opens the log of the items; those below `floor` are gone. Raises as the class."""
        self.notes = []
        files, directory = self._files, self.layout.items
        identity = self._described.identity(ITEMS)
        make_directory(files, directory)
        found = self._clean(directory)
        if found is None:
            drop_consumed(files, directory, floor)
            found = recover_items(files, directory, identity, self._quarantine)
        recovered = found.journal
        if not recovered.sizes:  # the last segment was deleted, and the next one not begun
            recovered = replace(recovered, end=replace(recovered.end, offset=floor))
        self.items = ItemLog(files, directory, identity, recovered, SEGMENT_BYTES, flushes=self._flushes, wall=self._wall)
        self.items.use(found.infos, found.raw_bytes)

    def _clean(self, directory: Path) -> RecoveredItems | None:
        """What the mark of a clean end says, if the files fit it. The mark is gone when this returns."""
        path, found = self.layout.clean_mark, None
        try:
            found = self._read_mark(directory, path)
        except FileNotFoundError:
            return None
        except (Malformed, LogError):
            found = None  # the log says it all
        with mapped(path, "delete"):
            self._files.unlink(path)
            self._files.sync_directory(self.root)
        return found

    def _read_mark(self, directory: Path, path: Path) -> RecoveredItems | None:
        mark = read_sealed(self._files, path)
        recovered = clean_end(self._files, directory, want(mark, "items", dict), LIMITS)
        if recovered is None or want(mark, "uuid", str) != self._described.uuid:
            return None
        infos = {first: SegmentInfo(payload, at) for first, payload, at in want(mark, "segments", list)}
        raw_bytes = want_count(mark, "raw")
        if raw_bytes and self._files.state(raw_path(directory, recovered.end.segment)).st_size != raw_bytes:
            return None
        return RecoveredItems(recovered, infos, raw_bytes)

    def _write_mark(self) -> None:
        items = self.items
        if items.failed or not items.sizes or len(items.sizes) > _MARK_SEGMENTS_MAX:
            return
        items.sync()
        fields = {
            "format": FORMAT,
            "uuid": self._described.uuid,
            "items": {
                "segment": items.segment, "position": items.position, "offset": items.next, "crc": items.crc,
                "bytes": items.disk_bytes(), "publishers": {},
            },
            "raw": items.beside,
            "segments": [(first, info.payload, info.at) for first, info in items.infos.items()],
        }  # fmt: skip
        with contextlib.suppress(OSError):  # no room for it: the next opening reads the log
            self._files.write_atomically(self.layout.clean_mark, seal(orjson.dumps(fields)[:-1])[0])

    def trim(self, floor: int, *, empty: bool) -> Sequence[int]:
        """Gives the disk back that holds only items below `floor`; all of it where the queue is empty.

        Raises:
            LogError: a segment cannot be deleted.
        """
        items = self.items
        if empty and items.position + items.beside >= FRESH_BYTES and items.next > items.segment:
            try:
                items.begin()
            except DiskFull:
                return ()  # later; there is nothing to lose by it
        return items.drop_below(floor)

    def disk_size(self) -> int:
        """Bytes of all files below the directory."""
        with mapped(self.root, "look at"):
            return sum(_size(entry) for place, _, names in os.walk(self.root) for entry in (Path(place, n) for n in names))

    # --- the end -----------------------------------------------------------------------------------------------------
    def close(self) -> None:
        """Flushes, notes that the end was clean, closes the files and lets the next owner in; safe twice."""
        with self.lock:
            if self.ended is not None:
                return
            self.ended = Closed(f"the queue {self.root} was closed: open it again")
            try:
                with mapped(self.root, "close"):
                    if not self.cursors.failed:
                        self.cursors.sync()
                    self._write_mark()
            finally:
                self.items.close()
                self.cursors.close()
                self._lock.release()

    def abandon(self) -> None:
        """After an opening that failed: closes the files and lets the next owner in."""
        self.ended = Closed(f"the queue {self.root} could not be opened")
        for log in (getattr(self, "items", None), self.cursors):
            if log is not None:
                log.close()
        self._lock.release()

    def refusal(self) -> DqError:
        """The error for who uses it after its end."""
        return type(self.ended)(str(self.ended)) if self.ended is not None else Closed("")

    def after_fork(self, refusal: Forked) -> None:
        """In a forked child the queue is its parent's."""
        self.ended, self.lock = refusal, threading.Lock()


def take_lock(root: Path) -> HeldLock:
    """The lock of a queue's owner. Raises InUse, with the owner's pid."""
    return hold(QueueLayout(root).lock, 0.0, f"the queue {root}", error=InUse, advice=_ADVICE)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0

"""One sink at work: its core, its log, the logs it reads. Offers become TASK events, intents become dead letters."""

from __future__ import annotations

import base64
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from dq.clock import Clock
from dq.config import LIMITS
from dq.core.sink import Offer, SinkCore
from dq.errors import DqError, InvalidSetting, LogError, RecordsTrimmed
from dq.log.backend import End, StorageReader, get_backend
from dq.log.catalog import make_directory
from dq.log.files import Files
from dq.log.layout import Layout
from dq.log.sink_log import SinkLog
from dq.model.dead_letter import DeadLetter
from dq.model.event import Event, EventOwner, EventType
from dq.model.names import check_name, dead_letter_stream
from dq.model.settings import SinkSettings
from dq.transport.frames import Buffer

log = logging.getLogger("dq")
_OWNER = EventOwner.CONSUMER_BROKER
Shard = tuple[str, int]
Push = tuple[str, list[Buffer]]
# A turn hands out so many leases at the most, so that one deep backlog does not keep the others' answers waiting.
_LEASES_A_TURN = 16
_NOTES_MAX = 1_000


class SinkRun:
    """A sink and all that belongs to it in this process.

    Attributes:
        core: its state, pure.
        damaged: shards that cannot be read, with the reason.
        unsynced: whether its log has notes that are not on disk yet.
    """

    def __init__(self, root: Path, files: Files, clock: Clock, name: str, settings: SinkSettings) -> None:
        self.name, self.settings = name, settings
        self._layout, self._files, self._clock = Layout(root), files, clock
        self.core = SinkCore(name, settings, LIMITS)
        self._log, notes = SinkLog.open(files, self._layout.sink(name), name, LIMITS)
        for note in notes:
            self.core.replay(note)
        self.core.recover(clock.monotonic())
        self._readers: dict[Shard, StorageReader] = {}
        self._backends: dict[str, str] = {}
        self.damaged: dict[Shard, str] = {}
        self.unsynced = False
        self._notes: dict[tuple[int, int], str] = {}

    # --- streams ---------------------------------------------------------------------------------------------------

    def open_stream(self, opened: dict[str, Any]) -> None:
        """Puts the sink over a stream; a sink that knows it already keeps its cursor."""
        stream, ends = opened["stream"], opened["ends"]
        self.remember_backend(stream, opened["settings"]["backend"])
        for bucket, (offset, segment, position) in enumerate(ends):
            start = opened["firsts"][bucket] if self.settings.start == "oldest" else offset
            self.core.add_shard((stream, bucket), start, opened["uuid"], opened["epoch"])
            self.committed((stream, bucket), End(offset, segment, position))

    def remember_backend(self, stream: str, backend: str) -> None:
        """By which storage backend a stream is read."""
        self._backends[stream] = backend

    def committed(self, shard: Shard, end: End) -> None:
        """A bucket is committed up to `end`."""
        reader = self._readers.get(shard)
        if reader is None:
            backend = get_backend(self._backends.get(shard[0], "json"))
            reader = self._readers[shard] = backend.reader(self._files, self._layout.bucket(*shard), LIMITS)
        reader.advance(end)
        self.core.committed(shard, end.offset)

    @property
    def streams(self) -> set[str]:
        """The streams it is over."""
        return {stream for stream, _ in self.core.floors()}

    # --- dispatch --------------------------------------------------------------------------------------------------

    def dispatch(self, now: float) -> tuple[list[Push], bool]:
        """Leases what waits to who is idle; returns the TASK frames by consumer, and whether more is left to do."""
        pushes: list[Push] = []
        for _ in range(_LEASES_A_TURN):
            offer = self.core.offer()
            if offer is None:
                return pushes, False
            push = self._lease(offer, now)
            if push is not None:
                pushes.append(push)
        return pushes, True

    def _lease(self, offer: Offer, now: float) -> Push | None:
        shard, first = offer.shard, offer.first
        try:
            found = self._readers[shard].read(first, offer.count_max, LIMITS.task_bytes)
        except RecordsTrimmed as error:
            missed = self.core.trimmed(shard, error.first)
            log.warning("sink %s missed %d records of %s/%d that were trimmed", self.name, missed, *shard)
            return None
        except (LogError, OSError) as error:
            self.damaged[shard] = str(error)
            self.core.close_shard(shard)
            log.error("sink %s cannot read %s/%d any more: %s", self.name, *shard, error)
            return None
        count = found.count
        lease = self.core.lease(offer, count, found.size, now)
        fields: dict[str, Any] = {
            "lease": lease, "stream": shard[0], "bucket": shard[1], "first": first, "count": count,
            "publishers": found.publishers,
        }  # fmt: skip
        if offer.attempts:
            fields["attempts"] = {k: v for k, v in offer.attempts.items() if k < first + count}
        if offer.errors:
            fields["errors"] = {k: v for k, v in offer.errors.items() if k < first + count}
        return offer.consumer, [Event(EventType.TASK, _OWNER, fields).line(), *found.parts]

    def note_progress(self, lease: int, offset: int, note: str) -> None:
        """What a consumer said about its task while it works; kept for the status until the sink has moved on."""
        self._notes[lease, offset] = note
        if len(self._notes) > _NOTES_MAX:
            del self._notes[next(iter(self._notes))]

    def status(self) -> dict[str, Any]:
        """Its figures, as JSON takes them."""
        figures = asdict(self.core.stats())
        figures["shards"] = {f"{stream}/{bucket}": shard for (stream, bucket), shard in figures["shards"].items()}
        notes = [{"lease": lease, "offset": offset, "note": note} for (lease, offset), note in self._notes.items()]
        damaged = {f"{stream}/{bucket}": why for (stream, bucket), why in self.damaged.items()}
        return {**figures, "settings": self.settings.to_dict(), "notes": notes, "damaged": damaged}

    # --- its log ---------------------------------------------------------------------------------------------------

    def write_notes(self) -> None:
        """Writes what the core noted, before anything of it is confirmed. It survives a kill of this process.

        Raises:
            DiskFull, LogError: it cannot.
        """
        self.core.wall = self._clock.wall()
        notes = self.core.take_notes()
        if not notes:
            return
        self._log.append(notes)
        self._log.write()
        self.unsynced = True
        if self._log.full:
            self._log.roll(self.core.snapshot())

    def sync(self) -> None:
        """Brings the notes to the disk; called in a thread.

        Raises:
            SyncFailed: the disk did not confirm.
        """
        self.unsynced = False
        self._log.sync()

    def close(self) -> None:
        """Writes and syncs what is left and closes all files."""
        self.write_notes()
        self._log.sync()
        self._log.close()
        for reader in self._readers.values():
            reader.close()

    # --- dead letters ----------------------------------------------------------------------------------------------

    def dead_letter_writes(self, intents: list[DeadLetter]) -> list[Event]:
        """The WRITE events of these intents, whose notes must be synced already."""
        return [
            Event(
                EventType.WRITE,
                _OWNER,
                {"stream": dead_letter_stream(i.stream), "publisher": f"sink:{self.name}", "sequence": i.intent},
                self._dead_letter_line(i),
            )
            for i in intents
        ]

    def _dead_letter_line(self, intent: DeadLetter) -> bytes:
        """The record as it was, with its past in its headers; a line that is not JSON as the raw bytes it is."""
        try:
            found = self._readers[intent.stream, intent.bucket].read(intent.offset, 1, LIMITS.task_bytes)
            raw = b"".join(found.parts)[:-1]
        except (KeyError, DqError, OSError) as error:
            log.error("the record of dead letter %s/%d/%d is gone: %s", intent.stream, intent.bucket, intent.offset, error)
            raw = b"null"
        try:
            fields = orjson.loads(raw)
            if not isinstance(fields, dict) or not ("payload" in fields or "base64" in fields):
                raise ValueError
        except ValueError:
            fields = {"base64": base64.b64encode(raw).decode("ascii")}
        past = {
            "dq-id": f"{intent.stream}/{intent.bucket}/{intent.offset}",
            "dq-sink": self.name,
            "dq-attempts": str(intent.attempts),
            "dq-reason": intent.reason,
            "dq-error": intent.error,
            "dq-consumer": intent.consumer,
            "dq-published-at": str(fields.get("at", "")),
        }
        headers = fields.get("headers")
        fields["headers"] = {**(headers if isinstance(headers, dict) else {}), **past}
        fields["at"] = self._clock.wall()
        return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)


def load_settings(root: Path, name: str) -> SinkSettings | None:
    """The settings a sink was made with, or None where there is no such sink.

    Raises:
        LogError: the file is there and is not what dq wrote.
    """
    path = Layout(root).sink_settings(name)
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return SinkSettings.from_dict(orjson.loads(raw)["settings"])
    except (ValueError, KeyError, TypeError, InvalidSetting) as error:
        raise LogError(f"{path} is not the settings of a sink ({error}): restore it, or remove the sink's directory") from error


def make_sink(root: Path, files: Files, name: str, settings: SinkSettings) -> None:
    """Makes a sink's directory and keeps its settings.

    Raises:
        InvalidName: the name is no safe file name.
    """
    check_name("sink", name)
    layout = Layout(root)
    make_directory(files, layout.sink(name))
    content = orjson.dumps({"format": 1, "sink": name, "settings": settings.to_dict()}, option=orjson.OPT_APPEND_NEWLINE)
    files.write_atomically(layout.sink_settings(name), content)

"""One sink at work: its core, its log, the logs it reads. Offers become TASK events, intents become dead letters."""

from __future__ import annotations

import base64
import logging
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path
from typing import Any

import orjson

from dq.clock import Clock
from dq.config import LIMITS, Limits
from dq.core.sink import Offer, ShardStart, SinkCore
from dq.errors import Damaged, DiskFull, DqError, InvalidSetting, LogError, NewerFormat, RecordsTrimmed
from dq.log.backend import BucketPlace, End, StorageReader, backend_of
from dq.log.files import Files
from dq.log.layout import REPAIR, Layout
from dq.log.sink_log import SinkLog
from dq.log.stream_file import StreamDescription
from dq.model.dead_letter import DeadLetter
from dq.model.event import Event, EventOwner, EventType
from dq.model.names import dead_letter_stream
from dq.model.settings import SinkSettings, StreamSettings
from dq.transport.frames import Buffer

log = logging.getLogger("dq")
_OWNER = EventOwner.CONSUMER_BROKER
Shard = tuple[str, int]
Push = tuple[str, list[Buffer]]
# A turn hands out so many leases at the most, so that one deep backlog does not keep the others' answers waiting.
_LEASES_A_TURN = 16
_NOTES_MAX = 1_000
_LETTERS_IN_FLIGHT = LIMITS.dedupe_batches // 2


class SinkRun:
    """A sink and all that belongs to it in this process.

    Attributes:
        core: its state, pure.
        damaged: shards that cannot be read, with the reason.
        unsynced: whether its log has notes that are not on disk yet.
    """

    def __init__(
        self, root: Path, files: Files, clock: Clock, name: str, settings: SinkSettings, limits: Limits = LIMITS
    ) -> None:
        self.name, self.settings = name, settings
        self._layout, self._files, self._clock, self._limits = Layout(root), files, clock, limits
        self.core = SinkCore(name, settings, limits)
        self._log, notes = SinkLog.open(files, self._layout.sink(name), name, limits)
        try:
            for note in notes:
                self.core.replay(note)
        except Damaged as error:
            self._log.close()
            raise Damaged(
                f"{self._layout.sink(name)}: {error}. Restore it from a backup, or cut it: {REPAIR} --help"
            ) from error
        self.core.recover(clock.monotonic())
        self._readers: dict[Shard, StorageReader] = {}
        self._settings_of: dict[str, StreamSettings] = {}
        self._epochs: dict[Shard, tuple[str, int]] = {}
        self.damaged: dict[Shard, str] = {}
        self._unread: dict[Shard, int] = {}  # the offset at which a damaged one could not be read
        self.unsynced = False
        self._notes: dict[tuple[int, int], str] = {}
        self._letters_from: dict[str, int] = {}
        self._letters_sent: dict[str, int] = {}
        try:
            self.write_notes()
            self._log.sync()  # from which number on this broker leases
        except DqError:
            self._log.close()
            raise

    # --- streams ---------------------------------------------------------------------------------------------------

    def open_stream(self, found: StreamDescription, firsts: Sequence[int], ends: Sequence[End]) -> None:
        """Puts the sink over a stream; a sink that knows it already keeps its cursor."""
        for bucket, end in enumerate(ends):
            start = firsts[bucket] if self.settings.start == "oldest" else end.offset
            self._add_shard(found, bucket, start)
            self.committed((found.name, bucket), end)
            self._look_again((found.name, bucket))

    def reopen_stream(self, found: StreamDescription) -> None:
        """A stream that the sink is over has a new writer; how far it is committed is told later."""
        for bucket in range(found.settings.buckets):
            self._add_shard(found, bucket, 0)

    def _add_shard(self, found: StreamDescription, bucket: int, start: int) -> None:
        shard, settings = (found.name, bucket), found.settings
        self._settings_of[found.name] = settings
        if self._epochs.get(shard) != (found.uuid, found.epoch):
            self._epochs[shard] = (found.uuid, found.epoch)
            reader = self._readers.pop(shard, None)
            if reader is not None:  # it may have read ahead what is not there any more
                reader.close()
        lossy = settings.durability != "sync"
        starts = [ShardStart(each.epoch, each.ends[bucket], lossy or each.accepted) for each in found.starts]
        try:
            gone = self.core.add_shard(shard, start, found.uuid, found.epoch, starts)
        except Damaged as error:
            place = shlex.quote(str(self._layout.stream(found.name)))
            hint = f"restore it from a backup, or accept the loss: {REPAIR} {place} --accept-loss"
            self._close_shard(shard, f"{error}; {hint}")
            return
        self.damaged.pop(shard, None)
        if gone:
            log.warning(
                "stream %s/%d lost its end, as %s: %d records that sink %s had been given are gone",
                *shard, f"durability {settings.durability!r} allows" if lossy else "a repair has accepted", gone, self.name,
            )  # fmt: skip

    def check_readable(self) -> None:
        """Raises Damaged where nothing of its streams can be read for this sink: its consumers would wait for ever."""
        if self.damaged and self.damaged.keys() >= self.core.floors().keys():
            raise Damaged(next(iter(self.damaged.values())))

    def _look_again(self, shard: Shard) -> None:
        """Closes a shard again that still cannot be read where it could not be before."""
        first = self._unread.pop(shard, None)
        if first is not None:
            try:
                self._readers[shard].read(first, 1, self._limits.task_bytes)
            except RecordsTrimmed:
                pass
            except (LogError, OSError) as error:
                self._unread[shard] = first
                self._close_shard(shard, str(error))

    def _close_shard(self, shard: Shard, why: str) -> None:
        self.damaged[shard] = why
        self.core.close_shard(shard)
        log.error("sink %s cannot go on with %s/%d: %s", self.name, *shard, why)

    def committed(self, shard: Shard, end: End) -> None:
        """A bucket is committed up to `end`."""
        reader = self._readers.get(shard)
        if reader is None:
            if shard in self.damaged:
                return
            try:
                reader = self._readers[shard] = self._open_reader(shard)
            except (LogError, InvalidSetting) as error:  # a class of the user's own, which may not be there any more
                self._close_shard(shard, str(error))
                return
        reader.advance(end)
        self.core.committed(shard, end.offset)

    def _open_reader(self, shard: Shard) -> StorageReader:
        settings = self._settings_of.get(shard[0], StreamSettings())
        return backend_of(settings).open_reader(
            BucketPlace(self._files, self._layout.bucket(*shard), options=settings.options, limits=self._limits)
        )

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
            found = self._readers[shard].read(first, offer.count_max, self._limits.task_bytes)
        except RecordsTrimmed as error:
            missed = self.core.trimmed(shard, error.first)
            log.warning("sink %s missed %d records of %s/%d that were trimmed", self.name, missed, *shard)
            return None
        except (LogError, OSError) as error:
            self._unread[shard] = first
            self._close_shard(shard, str(error))
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
            DiskFull, LogError: it cannot. (No room for a new segment alone is no error: the old one goes on.)
        """
        self.core.wall = self._clock.wall()
        notes = self.core.take_notes()
        if not notes:
            return
        self._log.append(notes)
        self._log.write()
        self.unsynced = True
        if self._log.full:
            try:
                self._log.roll(self.core.snapshot())
            except DiskFull as error:
                log.warning("the log of sink %s goes on as it is: %s", self.name, error)

    def sync(self) -> None:
        """Brings the notes to the disk; called in a thread.

        Raises:
            SyncFailed: the disk did not confirm.
        """
        self.unsynced = False
        self._log.sync()

    def close(self) -> None:
        """Writes and syncs what is left and closes all files, the latter in any case.

        Raises:
            DiskFull, LogError: it cannot be written.
        """
        try:
            self.write_notes()
            self._log.sync()
        finally:
            self._log.close()
            for reader in self._readers.values():
                reader.close()

    # --- dead letters ----------------------------------------------------------------------------------------------

    def letters_due(self) -> list[DeadLetter]:
        """Intents to be published now: in the order of their numbers, and few at a time.

        The other broker knows the last batches of a publisher, so that one that comes again must be among them; and it knows
        no publisher of whom nothing is stored, so that the first one goes alone: a later one would be taken for the first.
        """
        due: list[DeadLetter] = []
        for stream, waiting in groupby(self.core.dead_letters(), lambda letter: letter.stream):
            letters = list(waiting)
            number = letters[0].intent
            alone = self._letters_from.setdefault(stream, number) == number
            after = self._letters_sent.get(stream, -1)
            end = number + (1 if alone else _LETTERS_IN_FLIGHT)
            due += [letter for letter in letters if after < letter.intent < end]
            self._letters_sent[stream] = max(after, min(end - 1, letters[-1].intent))
        return due

    def letters_again(self) -> list[DeadLetter]:
        """As `letters_due`, with those that are under way: the other broker is a new one, or did not take one of them."""
        self._letters_sent.clear()
        return self.letters_due()

    def dead_letter_writes(self, intents: list[DeadLetter]) -> list[Event]:
        """The WRITE events of these intents, whose notes must be synced already.

        One whose record cannot be read now is due again, and the later ones of its stream with it.
        """
        events: list[Event] = []
        waiting: set[str] = set()
        for intent in intents:
            line = self._dead_letter_line(intent) if intent.stream not in waiting else None
            if line is not None:
                stream, publisher = dead_letter_stream(intent.stream), f"sink:{self.name}"
                fields = {"stream": stream, "publisher": publisher, "sequence": intent.intent}
                events.append(Event(EventType.WRITE, _OWNER, fields, line))
            elif intent.stream not in waiting:
                waiting.add(intent.stream)
                self._letters_sent[intent.stream] = intent.intent - 1
        return events

    def _record_of(self, intent: DeadLetter) -> bytes | None:
        """The line of its record without the newline; `null` if it is gone, None if it cannot be read now."""
        place = (intent.stream, intent.bucket, intent.offset)
        if self.core.is_stray(intent):
            log.error("the record of dead letter %s/%d/%d is gone: its stream lost it, or was made anew", *place)
            return b"null"
        reader = self._readers.get((intent.stream, intent.bucket))
        if reader is None:
            return None  # nobody has said yet how far the stream is committed
        try:
            found = reader.read(intent.offset, 1, self._limits.task_bytes)
        except (RecordsTrimmed, Damaged, NewerFormat) as error:
            log.error("the record of dead letter %s/%d/%d is gone: %s", *place, error)
            return b"null"
        except (LogError, OSError) as error:
            log.error("the record of dead letter %s/%d/%d cannot be read: %s", *place, error)
            return None
        return b"".join(found.parts)[:-1] if found.count else None

    def _dead_letter_line(self, intent: DeadLetter) -> bytes | None:
        """The record as it was, with its past in its headers; a line that is not JSON as the raw bytes it is."""
        raw = self._record_of(intent)
        if raw is None:
            return None
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

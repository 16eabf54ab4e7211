"""One sink at work: its core, its log, the logs it reads. Offers become TASK events."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dq.broker.dead_letters import DeadLetters
from dq.broker.expiry import before_expired, expired_ahead, may_expire
from dq.broker.sieve import Sieve, Sifted
from dq.broker.sink_shards import Shard, SinkShards
from dq.clock import Clock
from dq.config import LIMITS, Limits
from dq.core.leases import Past
from dq.core.ranges import Range
from dq.core.sink import Offer, SinkCore
from dq.errors import Damaged, DiskFull, DqError, InvalidSetting
from dq.log.backend import Slice
from dq.log.files import Files
from dq.log.layout import REPAIR, Layout
from dq.log.sink_file import SinkFile
from dq.log.sink_log import SinkLog
from dq.model.event import Event, EventOwner, EventType
from dq.model.told import about, words_of
from dq.transport.frames import Buffer

log = logging.getLogger("dq")
_OWNER = EventOwner.CONSUMER_BROKER
Push = tuple[str, list[Buffer]]
# A turn hands out so many leases at the most, so that one deep backlog does not keep the others' answers waiting.
_LEASES_A_TURN = 16
_NOTES_MAX = 1_000


class SinkRun:
    """A sink and all that belongs to it in this process.

    Attributes:
        core: its state, pure.
        shards: the logs it reads.
        letters: its dead letters that are on their way.
        unsynced: whether its log has notes that are not on disk yet.
        unserved: why nothing of it can be handed out until this broker is another one.
    """

    def __init__(self, root: Path, files: Files, clock: Clock, name: str, content: SinkFile, limits: Limits = LIMITS) -> None:
        self.name, self.settings, self._clock, self._limits = name, content.settings, clock, limits
        place = Layout(root).sink(name)
        self.core = SinkCore(name, self.settings, limits)
        self._log, notes = SinkLog.open(files, place, name, limits)
        try:
            for note in notes:
                self.core.replay(note)
        except Damaged as error:
            self._log.close()
            raise Damaged(f"{place}: {error}. Restore it from a backup, or cut it: {REPAIR} --help") from error
        self.core.recover(clock.monotonic())
        self.shards = SinkShards(root, files, name, content, self.core, limits)
        self.letters = DeadLetters(name, content.publisher(name), self.core, self.shards.reader_of, clock, limits)
        self._sieve = Sieve.of(name, self.settings)
        self.unsynced = False
        self.unserved: DqError | None = None
        self._notes: dict[tuple[int, int], str] = {}
        try:
            self.write_notes()
            self._log.sync()  # from which number on this broker leases
        except DqError:
            self._log.close()
            raise

    # --- dispatch --------------------------------------------------------------------------------------------------

    def dispatch(self, now: float) -> tuple[list[Push], bool]:
        """Leases what waits to who is idle; returns the TASK frames by consumer, and whether more is left to do."""
        pushes: list[Push] = []
        for _ in range(_LEASES_A_TURN):
            offer = self.core.offer() if self.unserved is None else None
            if offer is None:
                return pushes, False
            try:
                push = self._lease(offer, now)
            except InvalidSetting as error:  # its pattern takes too long; whether the record matches is not known
                log.error("sink %s cannot go on: %s", self.name, words_of(error), extra=about(error, sink=self.name))
                self.unserved = error
                continue
            if push is not None:
                pushes.append(push)
        return pushes, True

    def check_served(self) -> None:
        """Raises DqError where nothing of this sink can be handed out: its consumers would wait for ever."""
        if self.unserved is not None:
            raise self.unserved
        self.shards.check_readable()

    def _lease(self, offer: Offer, now: float) -> Push | None:
        sieve = self._sieve
        plain = offer.alone or not sieve.filters
        count_max = offer.count_max if plain else min(offer.room, self._limits.batch_records_max)
        found = self.shards.read(offer.shard, offer.first, count_max)
        if found is not None and found.abouts:
            found = self._unexpired(offer, found)
        if found is None:
            return None
        if offer.alone or (plain and not found.abouts):
            return offer.consumer, [self._task(offer, found, now, (), expires=may_expire(found)), *found.parts]
        return self._sifted(sieve, offer, found, now)

    def _sifted(self, sieve: Sieve, offer: Offer, found: Slice, now: float) -> Push | None:
        """Leases what of a slice is this sink's; the rest is settled unseen."""
        sifted = sieve.sift(found, offer.count_max)
        if not sifted.matches:
            self.core.skip(offer, sifted.count, "skip")
            return None
        task = self._task(offer, sifted, now, sifted.without, sifted.burned, expires=may_expire(found))
        return offer.consumer, [task, *sifted.parts]

    def _unexpired(self, offer: Offer, found: Slice) -> Slice | None:
        """What of a slice comes before the next batch of which all has expired; one that it begins with is settled unopened.
        It is wall time that counts: if that jumps ahead, what is skipped by then stays so."""
        wall = self._clock.wall()
        count = expired_ahead(found, wall)
        if not count:
            return before_expired(found, wall)
        if count == found.count < offer.room:  # more may have than the consumer asked for
            longer = self.shards.read(offer.shard, offer.first, min(offer.room, self._limits.batch_records_max))
            if longer is None:
                return None
            count = max(count, expired_ahead(longer, wall))
        self.core.skip(offer, count, "expire")
        return None

    def _task(
        self,
        offer: Offer,
        found: Slice | Sifted,
        now: float,
        without: Sequence[Range],
        burned: Sequence[Past] = (),
        *,
        expires: bool = False,
    ) -> bytes:
        """Leases records and says so."""
        shard, first, count = offer.shard, offer.first, found.count
        lease = self.core.lease(offer, count, found.size, now, without, burned)
        fields: dict[str, Any] = {
            "lease": lease, "stream": shard[0], "bucket": shard[1], "first": first, "count": count,
            "publishers": found.publishers,
        }  # fmt: skip
        if without:
            fields["without"] = without
        if expires:
            fields["expires"] = True
        attempts, errors = offer.attempts, offer.errors
        if burned:
            attempts, errors = _with_past(offer, burned)
        if attempts:
            fields["attempts"] = {k: v for k, v in attempts.items() if k < first + count}
        if errors:
            fields["errors"] = {k: v for k, v in errors.items() if k < first + count}
        return Event(EventType.TASK, _OWNER, fields).line()

    def note_progress(self, lease: int, offset: int, note: str) -> None:
        """What a consumer said about its task while it works; kept for the status until the sink has moved on."""
        self._notes.pop((lease, offset), None)  # the newest stands last
        self._notes[lease, offset] = note
        if len(self._notes) > _NOTES_MAX:
            del self._notes[next(iter(self._notes))]

    def progress(self) -> dict[int, list[tuple[int, str]]]:
        """What was said so, by lease: of which offset, and what; the newest last."""
        found: dict[int, list[tuple[int, str]]] = {}
        for (lease, offset), note in self._notes.items():
            found.setdefault(lease, []).append((offset, note))
        return found

    def status(self) -> dict[str, Any]:
        """Its figures, as JSON takes them."""
        figures = asdict(self.core.stats())
        figures["shards"] = {f"{stream}/{bucket}": shard for (stream, bucket), shard in figures["shards"].items()}
        notes = [{"lease": lease, "offset": offset, "note": note} for (lease, offset), note in self._notes.items()]
        damaged = {f"{stream}/{bucket}": why for (stream, bucket), why in self.shards.damaged.items()}
        own = {
            "settings": self.settings.to_dict(),
            "detached": sorted(self.shards.detached),
            "notes": notes,
            "damaged": damaged,
            "hand_seconds": self.core.hand_seconds.to_dict(),
        }
        return {**figures, **own}

    def pins(self) -> dict[Shard, dict[str, Any]]:
        """The first record that is not settled in each shard that has one, and who has it."""
        return {
            (stream, bucket): {
                "offset": pin.offset,
                "record": f"{stream}/{bucket}/{pin.offset}",
                "sink": self.name,
                "state": pin.state,
                "consumer": pin.consumer,
            }
            for (stream, bucket), pin in self.core.pins().items()
        }

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
                log.warning(
                    "the log of sink %s goes on as it is: %s", self.name, words_of(error), extra=about(error, sink=self.name)
                )

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
            self.abandon()

    def abandon(self) -> None:
        """Closes all files, and leaves what is not written."""
        self._log.close()
        self.shards.close()


def _with_past(offer: Offer, past: Sequence[Past]) -> tuple[dict[int, int], dict[int, str]]:
    """Attempts and errors of the records of an offer: what they burned here counts those that they came with."""
    attempts = {first + n: burned for first, count, burned, _ in past for n in range(count)}
    errors = {first + n: error for first, count, _, error in past for n in range(count) if error}
    return attempts | (offer.attempts or {}), errors | (offer.errors or {})

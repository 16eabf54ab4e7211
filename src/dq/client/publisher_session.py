"""A publisher's side of its link: says who it is, takes the answers in, keeps the time of what lingers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dq.client.batcher import Batcher, Settled
from dq.client.link import Link, error_of
from dq.errors import Closed, DqError, InvalidName, SequenceError, UnknownStream
from dq.model.event import Event, EventOwner, EventType
from dq.model.names import base_stream


class PublisherSession:
    """What a publisher and its link share. Opened by `link.open()`, and only then there is a batcher.

    Args:
        root: the data directory.
        stream: its name.
        batch_size, linger, create, reconnect_timeout: as of `Publisher`, in seconds.
        base: of a stream of delayed records: gives the settings with which the one that they are for is made anew, should it
            have been destroyed; None where it may not be.

    Attributes:
        id: of the publisher; a new one where its numbers begin anew.
        link: its connection.
    """

    def __init__(
        self,
        root: Path,
        stream: str,
        batch_size: int,
        linger: float,
        reconnect_timeout: float,
        *,
        create: bool,
        base: Callable[[], dict[str, Any] | None] | None = None,
    ) -> None:
        self.stream, self.id = stream, _new_id()
        self._batch_size, self._linger, self._create, self._base = batch_size, linger, create, base
        self._batcher: Batcher | None = None
        self._nothing_lingered = False
        self._uuid, self._settings = "", dict[str, Any]()
        self.link = Link(root, self, reconnect_timeout)

    @property
    def batcher(self) -> Batcher:
        """Its core; the same one for good."""
        if self._batcher is None:
            raise RuntimeError("the publisher is not registered yet")
        return self._batcher

    def wish(self) -> dict[str, Any] | None:
        """The settings with which the stream is made anew, should it have been destroyed; None where it may not be."""
        return self._settings if self._create else None

    # --- what the link calls ---------------------------------------------------------------------------------------

    def hello(self, *, again: bool) -> Event:
        """See `Session`."""
        if self._batcher is not None:
            with self._batcher.lock:
                self._batcher.resuming = True
        fields = {"id": self.id, "pid": os.getpid(), "stream": self.stream, "create": self._create, "again": again}
        if again:  # should the stream have been destroyed, it is made anew as it was
            fields["settings"] = self._settings
        base = None if self._base is None else self._base()
        if base is not None:
            fields["base"] = base
        return Event(EventType.REGISTER, EventOwner.PUBLISHER, fields)

    def welcomed(self, answer: Event, *, again: bool) -> None:
        """See `Session`."""
        opened, known = answer["opened"], self._uuid
        settings = self._settings = opened["settings"]
        self._uuid = opened["uuid"]
        buckets, priorities = settings["buckets"], settings.get("priorities", 1)
        batcher = self._batcher
        if batcher is None:
            link, start = self.link, os.getpid() % buckets
            self._batcher = Batcher(
                self.stream,
                buckets,
                settings["durability"],
                self._batch_size,
                self._linger,
                start,
                link.send,
                link.nudge,
                priorities,
            )
            return
        if (batcher.buckets, batcher.priorities) != (buckets, priorities):
            # Keys have other buckets now, and what waits is sorted by them.
            error = Closed(
                f"stream {self.stream!r} was destroyed, and is there anew with {_lanes(buckets, priorities)} in place of "
                f"{_lanes(batcher.buckets, batcher.priorities)}: make a new Publisher; what it had not answered is not stored"
            )
            self.link.refuse(error)
            self.failed(error)
            return
        with batcher.lock:
            if self._uuid != known:
                batcher.begin_anew()
            refused = batcher.resend()
        for draft, outcome in refused:
            draft.settle(outcome)

    def handle(self, event: Event) -> None:
        """See `Session`."""
        batcher, fields = self.batcher, event.fields
        settled: Settled | None = None
        if event.type is EventType.ACK:
            with batcher.lock:
                if "once" in fields:
                    bucket = fields.get("stored_bucket", fields["bucket"])
                    settled = batcher.once_stored(fields["sequence"], bucket, fields["first"])
                else:
                    settled = batcher.stored(fields["bucket"], fields["sequence"], fields["first"], fields["count"])
        elif event.type is EventType.NACK and "sequence" in fields:
            settled = self._refused(batcher, event)
        if settled is not None:
            draft, outcome = settled
            draft.settle(outcome)

    def _refused(self, batcher: Batcher, event: Event) -> Settled | None:
        error, sequence = error_of(event), event["sequence"]
        with batcher.lock:
            if "once" in event.fields:
                return batcher.once_refused(sequence, error)
            settled = batcher.refused(event["bucket"], sequence, error)
        if isinstance(error, SequenceError):
            # The log lost batches that were confirmed, as its durability allows: their numbers are gone, and others follow.
            self.link.renew()
            self.failed(error)
        return settled

    def busy(self) -> bool:
        """See `Session`."""
        return self._batcher is not None and self._batcher.in_flight > 0

    def pending(self) -> bool:
        """See `Session`."""
        return self.busy() or (self._nothing_lingered and self.batcher.draft_open)

    def tick(self) -> float | None:
        """See `Session`."""
        batcher = self._batcher
        if batcher is None or not self._linger:
            return None
        with batcher.lock:
            left = batcher.push_lingering(time.monotonic())
        self._nothing_lingered = left is None
        return left

    def failed(self, error: DqError) -> None:
        """See `Session`."""
        batcher, base = self.batcher, base_stream(self.stream)
        if isinstance(error, InvalidName) and base is not None:  # there is one for a stream that exists, and for no other
            error = UnknownStream(
                f"stream {base!r} was destroyed, so nothing can wait for it: not stored; make it again, as by a new Publisher"
            )
        with batcher.lock:
            settled = batcher.fail_all(error)
            # What was given up may have been stored under its number, so the numbers begin anew under another id.
            self.id = _new_id()
        for draft, outcome in settled:
            draft.settle(outcome)


def _lanes(buckets: int, priorities: int) -> str:
    return f"{buckets} bucket(s)" + (f" for each of {priorities} priorities" if priorities > 1 else "")


def _new_id() -> str:
    return f"p-{os.urandom(6).hex()}"

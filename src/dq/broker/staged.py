"""A batch on its way through one turn of the publisher broker, and the answers that it can get."""

from __future__ import annotations

from dq.broker.desk import nack
from dq.broker.stream_changes import Holder
from dq.config import Limits
from dq.core.once_keys import Mark, OnceKeys, place_of
from dq.errors import DqError, RecordTooLarge
from dq.log.storage import Batch, Stored
from dq.model.about import is_counted
from dq.model.event import Event, EventOwner, EventType

_OWNER = EventOwner.PUBLISHER_BROKER


class Noted:
    """A key for `once` that is new, and is known from when its record is staged."""

    __slots__ = ("_bucket", "_digest", "_keys", "_mark", "_now")

    def __init__(self, keys: OnceKeys, digest: bytes, bucket: int, now: float) -> None:
        self._keys, self._digest, self._bucket, self._now = keys, digest, bucket, now
        self._mark: Mark | None = None

    def stands(self, offset: int) -> None:
        """Its record is staged there."""
        self._mark = self._keys.add(self._digest, place_of(self._bucket, offset), self._now)

    def forget(self) -> None:
        """Its record was not stored."""
        if self._mark is not None:
            self._keys.forget(self._digest, self._mark)


class Staged:
    """A batch of this turn: stored and synced when its bucket's commit succeeds, and answered then.

    Attributes:
        bucket: that its publisher asked for.
        stored: where it stands; of one whose key for `once` was known, where the first one stands.
        stored_bucket: the bucket in which that one stands; None unless it is such a duplicate.
        once: True when it has a key for `once`.
        noted: that key, where it was new.
    """

    __slots__ = ("bucket", "client", "noted", "once", "publisher", "sequence", "stored", "stored_bucket", "stream")

    def __init__(
        self, client: Holder | None, stream: str, bucket: int, batch: Batch, stored: Stored, stored_bucket: int | None = None
    ) -> None:
        self.client, self.stream, self.bucket, self.stored = client, stream, bucket, stored
        self.publisher, self.sequence, self.stored_bucket = batch.publisher, batch.sequence, stored_bucket
        self.once = not is_counted(batch.about)
        self.noted: Noted | None = None

    def ack(self) -> Event:
        """The answer that it is stored."""
        if self.client is None:
            return Event(EventType.ACK, _OWNER, self._neighbour_fields())
        stored = self.stored
        fields = {"bucket": self.bucket, "sequence": self.sequence, "first": stored.first, "count": stored.count}
        if self.once:
            fields["once"] = True
            if self.stored_bucket is not None:
                fields["stored_bucket"] = self.stored_bucket
        return Event(EventType.ACK, _OWNER, fields)

    def nack(self, error: DqError) -> Event:
        """The answer that it is not stored, or not known to be."""
        if self.client is None:
            return nack(_OWNER, error, **self._neighbour_fields())
        return refusal(error, self.bucket, self.sequence, once=self.once)

    def _neighbour_fields(self) -> dict[str, object]:
        return {"stream": self.stream, "bucket": self.bucket, "sequence": self.sequence, "publisher": self.publisher}


def check_size(batch: Batch, limits: Limits) -> None:
    """Of what a publisher sends. A replay, which is for one sink, has dq's own headers beside the record.

    Raises:
        RecordTooLarge: nobody may publish so much as one record.
    """
    size = len(batch.lines)
    if size > limits.record_bytes_max and batch.count == 1 and "for" not in (batch.about or {}):
        raise RecordTooLarge(f"a record of {size:,} bytes; {limits.record_bytes_max:,} are the most: keep it in a file")


def refusal(error: DqError, bucket: int, sequence: int, *, once: bool) -> Event:
    """The answer to a publisher whose batch was not taken."""
    fields: dict[str, object] = {"bucket": bucket, "sequence": sequence}
    return nack(_OWNER, error, **fields, once=True) if once else nack(_OWNER, error, **fields)

"""Why a record was given up: what a dead letter says of its past in its headers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One intent to dead-letter a record, as the sink's log keeps it until the dead letter is stored.

    Attributes:
        intent: number of the intent, counted from 0 per sink and stream; the dead letter's sequence number.
        stream, bucket, offset: the record that is given up.
        attempts: deliveries it had.
        reason: one line: "max_attempts", "consumer_died", or what `task.dead_letter(reason)` said.
        error: the last error of a handler, "" where there was none.
        consumer: id of the consumer that had it last.
    """

    intent: int
    stream: str
    bucket: int
    offset: int
    attempts: int
    reason: str
    error: str
    consumer: str

"""Why a record was given up: what a dead letter says of its past in its headers."""

from __future__ import annotations

from dataclasses import dataclass

from dq.model.names import base_stream, dead_letter_stream, later_stream

RETRIED = "retry"
"""The reason of what is not given up, but comes again much later."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One intent to dead-letter a record, as the sink's log keeps it until the dead letter is stored.

    Attributes:
        intent: number of the intent, counted from 0 per sink and `lane`; the dead letter's sequence number.
        stream, bucket, offset: the record that is given up.
        attempts: deliveries it had.
        reason: one line: "max_attempts", "consumer_died", or what `task.dead_letter(reason)` said.
        error: the last error of a handler, "" where there was none.
        consumer: id of the consumer that had it last.
        due: 0 for a dead letter. Else the record is tried again at this wall time, so late that it waits among the delayed
            records of its stream meanwhile.
    """

    intent: int
    stream: str
    bucket: int
    offset: int
    attempts: int
    reason: str
    error: str
    consumer: str
    due: float = 0.0

    @property
    def target(self) -> str:
        """The stream into which it goes."""
        return later_stream(self.stream) if self.due else dead_letter_stream(self.stream)

    @property
    def lane(self) -> str:
        """What its number counts in: that of dead letters is named as their stream. No stream has the name of the other."""
        return f"{self.stream}@later" if self.due else self.stream

    def headers(self, sink: str, published_at: object) -> dict[str, str]:
        """What the dead letter says of the record's past, beside the record's own headers.

        Args:
            sink: that gave it up.
            published_at: wall time at which it was published, as its line has it.
        """
        error, _, traceback = self.error.partition("\n")
        told = {
            "dq-id": f"{self.stream}/{self.bucket}/{self.offset}",
            "dq-sink": sink,
            "dq-attempts": str(self.attempts),
            "dq-reason": self.reason,
            "dq-error": error,
            "dq-consumer": self.consumer,
            "dq-published-at": str(published_at),
        }
        return told | ({"dq-error-type": error.partition(":")[0], "dq-traceback": traceback} if traceback else {})


def lane_of(target: str) -> str:
    """The `lane` of what goes into the stream `target`."""
    base = base_stream(target) or ""
    return f"{base}@later" if target == later_stream(base) else base

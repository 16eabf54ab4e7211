"""The past, from the logs alone: the biography of a record, and what a stream and its sinks looked like at a moment."""

from __future__ import annotations

from dq.history.ahead import Ahead, Standing, ahead
from dq.history.biography import explain
from dq.history.diagram import mermaid
from dq.history.moment import state_at
from dq.history.values import (
    BucketThen,
    BurnedThen,
    HeldThen,
    History,
    HistoryEvent,
    Kind,
    RecordSeen,
    RecordState,
    SinkThen,
    StreamThen,
)

__all__ = [
    "Ahead",
    "BucketThen",
    "BurnedThen",
    "HeldThen",
    "History",
    "HistoryEvent",
    "Kind",
    "RecordSeen",
    "RecordState",
    "SinkThen",
    "Standing",
    "StreamThen",
    "ahead",
    "explain",
    "mermaid",
    "state_at",
]

"""What `broadcast` tells and what comes of it: the signal that a listener gets, and the result that the teller gets."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class Mode(StrEnum):
    """What a broadcast waits for."""

    FORGET = "forget"
    """Nothing: it returns once the broker has passed it on."""
    ALL = "all"
    """Every listener has taken it; a failure, or one that has not when the time is over, is an error."""
    ANY = "any"
    """The first listener has taken it; that none has is an error."""
    BEST = "best"
    """As "all", but failures are only counted."""


@dataclass(frozen=True, slots=True)
class Signal:
    """What was told to a channel. It is stored nowhere: who does not listen at that moment never hears of it.

    Attributes:
        channel: where it was told.
        payload: a JSON value, or bytes.
        topic: its label, or None.
        created_at: when it was told, by the teller's wall clock, in UTC.
    """

    channel: str
    payload: Any
    topic: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class BroadcastResult:
    """What came of a broadcast, as far as it was known when the call returned.

    Attributes:
        told: how many listeners it was passed on to; 0 where nobody listens. Listeners that do not want its topic do not count.
        taken: how many of them have taken it.
        failed: how many of them have failed, or left without an answer.
        missed: how many had not answered when the time was over.
        reasons: why the first ten of those that failed did.
    """

    told: int
    taken: int = 0
    failed: int = 0
    missed: int = 0
    reasons: tuple[str, ...] = ()

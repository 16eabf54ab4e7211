"""How a handler's run ends: what it may return, and what an engine is told of it (a *verdict*)."""

from __future__ import annotations

import logging
import traceback
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Protocol

from dq.errors import InvalidSetting
from dq.model.outcome import Outcome
from dq.model.shown import shown
from dq.model.told import about, frames_of, place_of

log = logging.getLogger("dq")
_LONGEST_SECONDS = 1e9
TRACEBACK_CHARS_MAX: Final = 8_000
"""Of a traceback that travels with a verdict: its end is kept, where the error was raised."""


class Named(Protocol):
    """Of a delivery, what a message about it says."""

    @property
    def id(self) -> str:
        """Of the record."""

    @property
    def attempt(self) -> int:
        """From 1."""


@dataclass(frozen=True, slots=True)
class Ack:
    """Done. What a handler that returns None says."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Not wanted: settled, without having been done."""


@dataclass(frozen=True, slots=True)
class Retry:
    """It failed and is to come again; an attempt is burned, and the last one of `handler_max_attempts` is a dead letter.

    Attributes:
        after: seconds or a timedelta; None (default): 50 ms, doubled at each attempt, up to 5 s, +-20 %.
        error: what the next attempt sees as `last_error`; of an exception, its type and message. Default "".
        traceback: of the exception; default "".

    Raises:
        InvalidSetting: `after` is no time from 0 on.
    """

    after: float | timedelta | None = None
    error: str = ""
    traceback: str = ""

    def __post_init__(self) -> None:
        _ = self.seconds

    @property
    def seconds(self) -> float | None:
        """`after` in seconds."""
        after = self.after.total_seconds() if isinstance(self.after, timedelta) else self.after
        if after is None:
            return None
        if isinstance(after, bool) or not isinstance(after, (int, float)) or not 0 <= after <= _LONGEST_SECONDS:
            raise InvalidSetting(f"Retry(after=) is seconds from 0 to {_LONGEST_SECONDS:g}, or a timedelta, not {shown(after)}")
        return float(after)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """It can never be done: it goes to the stream of dead letters.

    Attributes:
        reason: one line for people.
        error: of an exception, its type and message. Default "".
        traceback: of the exception; default "".
    """

    reason: str
    error: str = ""
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class Release:
    """Given back as it was: it comes again, here or elsewhere, and no attempt is burned."""


Verdict = Ack | Drop | Retry | DeadLetter | Release

ACK: Final = Ack()
RELEASE: Final = Release()
_OF_OUTCOME: Final[dict[Outcome, Verdict]] = {
    Outcome.ACK: ACK,
    Outcome.DROP: Drop(),
    Outcome.RETRY: Retry(),
    Outcome.RELEASE: RELEASE,
    Outcome.DEAD_LETTER: DeadLetter("the handler gave it up"),
}


def verdict_of(result: object) -> Verdict:
    """What a handler's return value says.

    One that says nothing is an error of the handler's that no other attempt would mend, and the handler has done its work by
    then: such a task is dead-lettered, with the TypeError as its reason, and not tried again.
    """
    if result is None:
        return ACK
    if isinstance(result, (Ack, Drop, Retry, DeadLetter, Release)):
        return result
    if isinstance(result, Outcome):
        return _OF_OUTCOME[result]
    error = (
        f"TypeError: a handler returns None, an Outcome, or Ack(), Drop(), Retry(), DeadLetter() or Release(), "
        f"not {type(result).__name__} ({shown(result)})"
    )
    return DeadLetter(error, error=error)


def failed(error: BaseException, handler: str, delivery: Named) -> Retry:
    """What is said of a task whose handler raised."""
    tell_failure(handler, delivery, place_of(error), type(error).__name__, frames_of(error))
    lines = "".join(traceback.format_exception(error))
    return Retry(error=f"{type(error).__name__}: {error}", traceback=lines[-TRACEBACK_CHARS_MAX:])


def tell_failure(handler: str, delivery: Named, said: str, kind: str, frames: str) -> None:
    """Logs that a handler failed, without the error's text, which may quote the payload: the retry and the dead letter have it.

    Args:
        said: the type of the error, and where it was raised.
        kind: the type alone.
        frames: files, lines and functions, for who looks closer.
    """
    facts = {"handler": handler, "task": delivery.id, "attempt": delivery.attempt}
    log.warning(
        "handler %s failed at task %s, attempt %d: %s", handler, delivery.id, delivery.attempt, said, extra=about(kind, **facts)
    )
    if frames:
        log.debug("handler %s failed there", handler, extra=about(kind, **facts, frames=frames))

"""How a task can end."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """What the user's code decided about a task; each is a verb of the task."""

    ACK = "ack"
    """Done."""
    DROP = "drop"
    """Not wanted; settled."""
    RETRY = "retry"
    """Again later; an attempt is burned."""
    RELEASE = "release"
    """Given back as it was; no attempt is burned."""
    DEAD_LETTER = "dead_letter"
    """Given up; it goes to the stream of dead letters."""

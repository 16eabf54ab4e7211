"""How long a record waits after its handler failed."""

from __future__ import annotations

from random import Random

BACKOFF_SECONDS = 0.05
"""After the first failure: long enough for a lost connection to come back, too short for people to see."""
BACKOFF_SECONDS_MAX = 5.0
"""The longest, reached after the eighth failure."""
BACKOFF_FACTOR = 2.0
JITTER = 0.2
"""Up to so much more or less, so that records that failed together do not come back together."""


def backoff(attempts: int, jitter: Random) -> float:
    """Seconds to wait after `attempts` burned attempts (1 or more): 50 ms, doubled each time, up to 5 s, +-20 %."""
    # The exponent is bounded too: 2.0 ** 1100 is an OverflowError.
    seconds = min(BACKOFF_SECONDS * BACKOFF_FACTOR ** min(attempts - 1, 64), BACKOFF_SECONDS_MAX)
    return seconds * jitter.uniform(1.0 - JITTER, 1.0 + JITTER)


def longest_backoff(jitter: Random) -> float:
    """Seconds to wait for what may neither be given up nor tried at once."""
    return BACKOFF_SECONDS_MAX * jitter.uniform(1.0 - JITTER, 1.0 + JITTER)

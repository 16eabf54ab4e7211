"""What a sink counts. The words are explained in `stats.py`, which shows them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """What a sink has counted since it was made, in records."""

    settled: int = 0
    filtered: int = 0
    expired: int = 0
    removed: int = 0
    dropped: int = 0
    redelivered: int = 0
    retried: int = 0
    lost: int = 0
    dead_lettered: int = 0
    missed: int = 0
    cut_back: int = 0
    late_acks: int = 0
    ignored: int = 0

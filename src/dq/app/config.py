"""`AppConfig`: every number of an app, with its default, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from dq.errors import InvalidSetting
from dq.model.shown import shown

CAPACITY_MAX = 1 << 20
"""Of everything that is counted: a greater one is a slip, and would be found out when memory is full."""
_SECONDS_MAX = 7 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AppConfig:
    """The numbers of an app. Seconds are numbers from 0 (where not said otherwise) to a week; counts are from 1 to 1<<20.

    Attributes:
        handler_max_attempts: deliveries of one task before it is dead-lettered; default 5.
        max_in_flight: tasks that one handler works on at once; default 256. A handler may say otherwise.
        mailbox: tasks that wait in this process for one handler; a full one holds back the reader of that handler's streams,
            and of no other's. Default 1,024.
        ack_retry_attempts: how often a settle that failed is tried again, with backoff; default 8.
        ack_retry_queue: settles that wait to be tried again; while it is full no new task is fetched. Default 1,024.
        reclaim_interval: how often an engine looks for tasks that a dead consumer left, in seconds, from 0.01; default 30. dq's
            own engine has no need of it: its broker sees a consumer die.
        poll_idle_sleep: pause after a fetch that came back at once with nothing, in seconds; default 0.05.
        fetch_seconds: how long a fetch waits for something to come, from 0.01; default 0.5. It bounds how late an engine that
            cannot be interrupted hears of a stop.
        drain_seconds: how long a stop waits for what is in flight; default 30.
        ack_grace: seconds without a sign of life after which a process's tasks are given to others, from 0.05; default 20.
        grow_seconds: how long all threads of a handler are busy before one more is started, from 0.001; default 0.005.
        give_back_seconds: what has waited so long without any thread having become free goes back, for others; from 0.05;
            default 1.

    Raises:
        InvalidSetting: a number is of the wrong type or outside its limits; the message names it.
    """

    handler_max_attempts: int = 5
    max_in_flight: int = 256
    mailbox: int = 1_024
    ack_retry_attempts: int = 8
    ack_retry_queue: int = 1_024
    reclaim_interval: float = 30.0
    poll_idle_sleep: float = 0.05
    fetch_seconds: float = 0.5
    drain_seconds: float = 30.0
    ack_grace: float = 20.0
    grow_seconds: float = 0.005
    give_back_seconds: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, int):
                check_capacity(field.name, value)
            else:
                check_seconds(field.name, value, _LEAST_SECONDS.get(field.name, 0.0))

    @property
    def mailbox_share(self) -> int:
        """One half of `mailbox` waits where the pool takes it, the other half in the engine's hand."""
        return max(self.mailbox // 2, 1)


_LEAST_SECONDS = {
    "reclaim_interval": 0.01,
    "fetch_seconds": 0.01,
    "ack_grace": 0.05,
    "grow_seconds": 0.001,
    "give_back_seconds": 0.05,
}


def check_capacity(name: str, value: object) -> int:
    """Returns a count from 1 to 1<<20. Raises InvalidSetting, which names it."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= CAPACITY_MAX:
        raise InvalidSetting(f"{name} must be a whole number from 1 to {CAPACITY_MAX:,} (1<<20), not {shown(value)}")
    return value


def check_seconds(name: str, value: object, least: float = 0.0) -> float:
    """Returns seconds from `least` to a week. Raises InvalidSetting, which names them."""
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
        or not least <= value <= _SECONDS_MAX
    ):
        raise InvalidSetting(f"{name} must be seconds from {least:g} to {_SECONDS_MAX:g}, not {shown(value)}")
    return float(value)

"""The figures of all three processes, gathered for whoever asks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from dq.broker.supervised import Supervised
from dq.config import LIMITS
from dq.model.event import Event, EventOwner, EventType

Tell = Callable[[dict[str, Any]], None]
Ask = Callable[[Supervised, EventType, dict[str, Any], Callable[[Event], None]], None]


class Figures:
    """Whatever is asked while the brokers are asked is answered together, by one more question: many cost few.

    Args:
        brokers: they are asked.
        ask: asks one of them, and calls back with its answer.
        own: the manager's own figures.

    Attributes:
        due: when `tend` is to be called, in monotonic seconds; None: not before the next `tell`.
    """

    def __init__(self, brokers: Sequence[Supervised], ask: Ask, own: Callable[[], dict[str, Any]]) -> None:
        self._brokers, self._ask, self._own = brokers, ask, own
        self.due: float | None = None
        self._round = 0
        self._answers: dict[EventOwner, Any] = {}
        self._asking: list[Tell] = []
        self._waiting: list[Tell] = []

    def tell(self, tell: Tell) -> None:
        """Has `tell` called with the figures."""
        self._waiting.append(tell)
        if self.due is None:
            self._gather()

    def tend(self, now: float) -> None:
        """A broker that is just being replaced is waited for, but not for ever: then the figures say that it is not there."""
        if self.due is not None and self.due <= now:
            self._report()

    def _gather(self) -> None:
        self._asking, self._waiting, self._answers = self._waiting, [], {}
        self.due = time.monotonic() + LIMITS.status_seconds
        self._round += 1
        for broker in self._brokers:
            self._ask(broker, EventType.STATUS, {}, self._taker(self._round))

    def _taker(self, number: int) -> Callable[[Event], None]:
        def take(answer: Event) -> None:
            if number == self._round and self.due is not None:  # else it comes too late
                self._answers[answer.owner] = answer.get("status", {})
                if len(self._answers) == len(self._brokers):
                    self._report()

        return take

    def _report(self) -> None:
        """The figures as they are now: a broker may have been replaced while they were gathered."""
        status, self.due = self._own(), None
        for broker in self._brokers:
            own = {"pid": broker.pid, "restarts": broker.restarts, "ready": broker.ready}
            status[broker.owner.lower()] = {**own, **self._answers.get(broker.owner, {})}
        for tell in self._asking:
            tell(status)
        if self._waiting:
            self._gather()

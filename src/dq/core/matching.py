"""Which records a filter by topic takes: whole batches by the topics in their header, records only where those are mixed."""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum

from dq.model.settings import check_pattern

_KNOWN_MAX = 10_000
Search = Callable[[re.Pattern[str], str], bool]
UNKNOWN_TOPICS = ("*",)
"""What stands in the header of a batch whose topics were too many."""


class Taken(Enum):
    """How many of the records of a batch a filter takes."""

    ALL = "all"
    NONE = "none"
    SOME = "some, or that is not known: the batch is to be opened"


def _found(pattern: re.Pattern[str], topic: str) -> bool:
    return pattern.search(topic) is not None


class Matcher:
    """A filter by exact topic or by pattern; it is asked for each batch, and for the records of the mixed ones.

    Args:
        topic: only records with this topic.
        pattern: only records in whose topic this regular expression is found (`re.search`); a record without one has "".
            With neither, all records are taken.
        search: finds the pattern in a topic; what it raises goes through, and is not remembered.

    Raises:
        InvalidSetting: the pattern is no regular expression.
    """

    def __init__(
        self, topic: str | None = None, pattern: str | re.Pattern[str] | None = None, search: Search | None = None
    ) -> None:
        self._topic, self._search = topic, search or _found
        self._pattern = pattern if pattern is None or isinstance(pattern, re.Pattern) else check_pattern(pattern)
        self._known: dict[str, bool] = {}

    @property
    def takes_all(self) -> bool:
        """Whether it filters nothing."""
        return self._topic is None and self._pattern is None

    def takes(self, topic: str | None) -> bool:
        """Whether records with this topic are taken. A pattern is tried once for each topic."""
        topic = topic or ""
        known = self._known.get(topic)
        if known is None:
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            known = self._known[topic] = self._matches(topic)
        return known

    def _matches(self, topic: str) -> bool:
        if self._topic is not None and topic != self._topic:
            return False
        return self._pattern is None or self._search(self._pattern, topic)

    def of_batch(self, topics: tuple[str, ...] | None) -> Taken:
        """What is taken of a batch, by the topics its header names: "" for records without one, None where none has any."""
        if self.takes_all:
            return Taken.ALL
        if topics == UNKNOWN_TOPICS:
            return Taken.SOME
        taken = sum(map(self.takes, topics or ("",)))
        if not taken:
            return Taken.NONE
        return Taken.ALL if taken == len(topics or ("",)) else Taken.SOME

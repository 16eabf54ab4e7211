"""Dedupe windows: the last batches of each publisher of a bucket, by which a batch that comes again is known.

A batch is first staged, then kept when it is on disk or dropped when it is not; only kept ones push older ones out.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from dq.config import Limits
from dq.errors import OutcomeUnknown, SequenceError
from dq.log.format import Malformed, check_publisher
from dq.log.storage import Stored
from dq.model.shown import shown

_OURS = (
    "sink:",
    "later:",
)  # how those begin that store exactly once, however long they were silent: dead letters, moved records


class _Window:
    """One publisher: `batches` are (checksum, first offset, count) of the sequence numbers up to `last`, no gaps."""

    __slots__ = ("batches", "heard", "last")

    def __init__(self, last: int, heard: float) -> None:
        self.last, self.heard = last, heard
        self.batches: deque[tuple[int, int, int]] = deque()


class Windows:
    """The windows of one bucket. Times are wall seconds: they must mean something after a restart."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._windows: dict[str, _Window] = {}  # the one longest silent first
        self._staged: list[str] = []

    def __len__(self) -> int:
        return len(self._windows)

    def find(self, publisher: str, sequence: int, checksum: int, count: int, again: bool) -> Stored | None:
        """Where this batch stands already, or None if it is the next one.

        Raises:
            SequenceError: it leaves a gap, or its number is known with other bytes.
            OutcomeUnknown: it was sent before, and whether it was stored is not known any more.
            ProtocolError: an id that cannot be a publisher's.
        """
        window = self._windows.get(publisher)
        if window is None:
            check_publisher(publisher)
            if again and sequence:
                raise OutcomeUnknown(f"batch {sequence} of {publisher} came again, and nothing is known of that publisher")
            return None
        back = window.last - sequence
        if back == -1:
            return None
        if back < 0:
            raise SequenceError(f"batch {sequence} of {publisher} came where {window.last + 1} is next")
        if back >= len(window.batches):
            raise OutcomeUnknown(f"batch {sequence} of {publisher} came again, {back} batches after it: too old to be known")
        known, first, known_count = window.batches[-1 - back]
        # What a broker sends is known by its number alone: its record may be gone by the time that it is sent again.
        if (known != checksum or known_count != count) and not publisher.startswith(_OURS):
            raise SequenceError(f"batch {sequence} of {publisher} came again with other records: use a new number")
        return Stored(first, count, duplicate=True)

    def stage(self, publisher: str, sequence: int, checksum: int, first: int, count: int, now: float) -> None:
        """Notes a batch that `find` had nothing against."""
        window = self._windows.get(publisher)
        if window is None or sequence != window.last + 1:  # the latter in a log that is read: it was forgotten meanwhile
            window = self._windows[publisher] = _Window(sequence, now)
        window.last, window.heard = sequence, now
        window.batches.append((checksum, first, count))
        self._staged.append(publisher)

    def keep(self, now: float) -> None:
        """What was staged is on disk."""
        for publisher in self._staged:
            window = self._windows[publisher] = self._windows.pop(publisher)
            if len(window.batches) > self._limits.dedupe_batches:
                window.batches.popleft()
        self._staged.clear()
        self._forget(now)

    def drop(self) -> None:
        """What was staged is not stored: its numbers are free again."""
        for publisher in self._staged:
            window = self._windows[publisher]
            window.batches.pop()
            window.last -= 1  # kept, though it may be empty: a later number that is under way still leaves a gap
        self._staged.clear()

    def _forget(self, now: float) -> None:
        spare = len(self._windows) - self._limits.dedupe_publishers_max
        silent_since = now - self._limits.dedupe_seconds
        gone: list[str] = []
        for publisher, window in self._windows.items():
            if len(gone) >= spare and window.heard >= silent_since:
                break
            if not publisher.startswith(_OURS):
                gone.append(publisher)
        for publisher in gone:
            del self._windows[publisher]

    # --- in a segment's header ---------------------------------------------------------------------------------------
    def encode(self) -> dict[str, Any]:
        """As JSON: `{publisher: [heard, last, [checksum, first, count, checksum, first, ...]]}`; nothing may be staged."""
        return {
            publisher: [round(window.heard, 3), window.last, [number for batch in window.batches for number in batch]]
            for publisher, window in self._windows.items()
            if window.batches
        }

    @classmethod
    def decode(cls, fields: dict[str, Any], limits: Limits) -> Windows:
        """Raises Malformed where it is not what `encode` made."""
        windows = cls(limits)
        for publisher, value in fields.items():
            if not _is_window(value):
                raise Malformed(f"its window of {shown(publisher)} is {shown(value)}")
            heard, last, numbers = value
            window = windows._windows[publisher] = _Window(last, heard)
            window.batches.extend(zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True))
        return windows


def _is_window(value: Any) -> bool:
    if type(value) is not list or len(value) != 3:
        return False
    heard, last, numbers = value
    if type(heard) is not float or type(numbers) is not list or not numbers or len(numbers) % 3:
        return False
    return all(type(number) is int and number >= 0 for number in (last, *numbers))

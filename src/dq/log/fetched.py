"""Reading a bucket that only the publisher broker's process can read: what is asked for is fetched from there."""

from __future__ import annotations

from collections.abc import Callable

from dq.errors import InvalidSetting
from dq.log.storage import End, Slice, StorageStats

Fetch = Callable[[int, int, int], tuple[int, bytes]]
"""(first offset, records at most, bytes at most) -> how many records came, and their lines."""


class FetchedReader:
    """A `StorageReader` that asks.

    Args:
        fetch: brings records; what it raises, `read` raises.
    """

    def __init__(self, fetch: Fetch) -> None:
        self._fetch, self._end = fetch, 0

    def advance(self, end: End) -> None:
        """See `StorageReader.advance`."""
        self._end = max(self._end, end.offset)

    def read(self, first: int, count_max: int, bytes_max: int) -> Slice:
        """See `StorageReader.read`."""
        count, lines = min(count_max, self._end - first), b""
        if count > 0:
            count, lines = self._fetch(first, count, bytes_max)
        if count <= 0:  # also where there are fewer by now than it was told: its class forgot them with its process
            return Slice(first, 0, 0, [], [])
        return Slice(first, count, len(lines), [memoryview(lines)], [(count, "")], [count], [("*",)])

    def find(self, at: float) -> int:
        """Its records have no times. Raises InvalidSetting."""
        raise InvalidSetting(
            "the records of a backend class with put, get and flush have no times: start at an offset, 'oldest' or 'newest'"
        )

    def look(self) -> End:
        """Nobody but the broker can look. Raises InvalidSetting."""
        raise InvalidSetting("the records of a backend class with put, get and flush are read through the broker: start it")

    def stats(self) -> StorageStats:
        """See `StorageReader.stats`; what its files take is not known."""
        return StorageStats(0, self._end, 0, 0)

    def close(self) -> None:
        """Nothing is open."""


def cannot_read(backend: str) -> str:
    """Why no sink and no reader of files can be over such a stream."""
    return (
        f"the backend class {backend} has put, get and flush, and lives in the publisher broker alone: only readers can ask "
        'for its records. For a sink use backend="json", or make the class a dq.StorageBackend'
    )

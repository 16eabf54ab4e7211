"""Since when the oldest record has waited that a sink has not settled: read from the streams' logs, as no broker need do it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from dq.client.bucket_cursor import Filter
from dq.client.reader_stream import Shelf
from dq.core.matching import Matcher
from dq.errors import DqError
from dq.log.backend import End, StorageReader
from dq.model.settings import BY_CLASS, MEMORY, StreamSettings

_LOOK_SECONDS = 0.5
"""What one look may take at all sinks together: a place deep in a segment is searched for once, and remembered."""


class Oldest:
    """Remembers where it read last, so that one look after the other costs little. Safe to share between threads.

    Args:
        root: the data directory.
    """

    def __init__(self, root: Path) -> None:
        self._lock = threading.Lock()
        self._root = root
        self._shelf: Shelf | None = None
        self._logs: dict[tuple[str, int], StorageReader] = {}

    def look(self, status: Mapping[str, Any]) -> dict[str, float]:
        """By sink, when the oldest record that it has not settled was published, in seconds since 1970. Sinks that have settled
        all are missing, and those of whom that cannot be read from here.

        Args:
            status: what `Broker.stats` brought.
        """
        streams, sinks = status["publisher_broker"].get("streams", {}), status["consumer_broker"].get("sinks", {})
        with self._lock:
            return self._look(streams, sinks, time.monotonic() + _LOOK_SECONDS)

    def _look(self, streams: Mapping[str, Any], sinks: Mapping[str, Any], until: float) -> dict[str, float]:
        found: dict[str, float] = {}
        for sink, told in sinks.items():
            for shard, stands in told["shards"].items():
                stream, _, bucket = shard.rpartition("/")
                if stands["floor"] < stands["end"] and stream in streams and time.monotonic() < until:
                    at = self._at(stream, int(bucket), stands["floor"], streams[stream])
                    if at is not None:
                        found[sink] = min(found.get(sink, at), at)
        return found

    def _at(self, stream: str, bucket: int, offset: int, told: Mapping[str, Any]) -> float | None:
        settings = StreamSettings.from_dict(told["settings"])
        if settings.durability in (BY_CLASS, MEMORY):
            return None  # the broker's process alone has them, or they would be slow to bring
        key = (stream, bucket)
        try:
            log = self._logs.get(key) or self._open(stream, bucket, settings)
            log.advance(End(told["ends"][bucket], *told["places"][bucket]))
            line = b"".join(log.read(offset, 1, 1).parts).partition(b"\n")[0]
            return float(orjson.loads(line)["at"]) if line else None
        except (DqError, OSError, ValueError, KeyError, TypeError):  # trimmed a moment ago, or damaged: others tell of that
            if key in self._logs:
                self._logs.pop(key).close()
            return None

    def _open(self, stream: str, bucket: int, settings: StreamSettings) -> StorageReader:
        if self._shelf is None:
            self._shelf = Shelf(self._root, Filter(Matcher(None, None), None), lambda _, count: list(range(count)))
        log = self._logs[stream, bucket] = self._shelf.log(stream, bucket, settings)
        return log

    def close(self) -> None:
        """Lets go of the logs."""
        with self._lock:
            for log in self._logs.values():
                log.close()
            self._logs.clear()
            if self._shelf is not None:
                self._shelf.close()

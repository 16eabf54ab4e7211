"""How long streams with a `ttl` still live."""

from __future__ import annotations

from dq.clock import Clock
from dq.log.catalog import OpenStream


class Lifespans:
    """The streams that have a `ttl`, and since when it counts, in seconds since 1970.

    Args:
        clock: wall time decides, for a ttl goes on while no broker runs.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since: dict[str, float] = {}
        self._seconds: dict[str, float] = {}
        self._sliding: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._since)

    def opened(self, stream: OpenStream) -> None:
        """A stream is there. One whose ttl slides was last renewed when its last segment was written."""
        settings, made = stream.settings, stream.described.made
        if settings.ttl is None:
            return
        since = self._clock.wall() if made is None else made
        if settings.ttl_sliding:
            self._sliding.add(stream.name)
            written = [segments[-1].written for segments in (writer.segments() for writer in stream.writers) if segments]
            since = max(since, *written) if written else since
        self._since[stream.name], self._seconds[stream.name] = since, settings.ttl

    def forget(self, name: str) -> None:
        """A stream is no more."""
        self._since.pop(name, None)
        self._seconds.pop(name, None)
        self._sliding.discard(name)

    def wrote(self, name: str) -> None:
        """Records were added to a stream."""
        if name in self._sliding:
            self._since[name] = self._clock.wall()

    def over(self) -> list[str]:
        """The streams whose time is over."""
        now = self._clock.wall()
        return [name for name, since in self._since.items() if now - since >= self._seconds[name]]

"""`Later`: the second publisher of one that has records to wait for their time, made when the first of them comes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from dq.errors import Closed, InvalidName, InvalidSetting, UnknownStream
from dq.model.names import base_stream, later_stream

if TYPE_CHECKING:
    from dq.client.publisher import Publisher


class Later:
    """Delayed records wait in a stream of their own, so that they keep no segment of the other one on disk.

    Args:
        stream: the one they are for.
        make: makes the publisher of a stream; it takes its name.
    """

    def __init__(self, stream: str, make: Callable[[str], Publisher]) -> None:
        self._stream, self._make = stream, make
        self._making = threading.Lock()
        self._closed = False
        self.made: Publisher | None = None

    def check(self) -> None:
        """Raises InvalidSetting where nothing can be delayed."""
        base = base_stream(self._stream)
        if base is not None:
            raise InvalidSetting(
                f"stream {self._stream!r} is kept by dq itself, and its records cannot be delayed: "
                f"leave delay out, or publish to {base!r}"
            )

    def publisher(self) -> Publisher:
        """The one there is; a new one after the stream of delayed records was destroyed and made anew with other buckets.

        Raises:
            UnknownStream: the stream that they are for is gone. BrokerNotRunning, BrokerLost, Closed.
        """
        made = self.made
        if made is not None and made.usable:
            return made
        with self._making:
            if self.made is None or not self.made.usable:
                try:
                    self.made = self._make(later_stream(self._stream))
                except InvalidName as error:  # there is one for a stream that exists, and for no other
                    raise UnknownStream(f"there is no stream {self._stream!r} any more, so nothing can wait for it") from error
            made = self.made
        if self._closed:  # meanwhile, and whoever closed did not see this one
            made.close(0.0)
            raise Closed("this object was closed: make a new one")
        return made

    def close(self, timeout: float | None) -> None:
        """As `Publisher.close`."""
        self._closed = True
        if self.made is not None:
            self.made.close(timeout)

    def forget(self) -> None:
        """In a forked child: the publisher is the parent's, and another thread of the parent may have had the lock."""
        self.made, self._making = None, threading.Lock()

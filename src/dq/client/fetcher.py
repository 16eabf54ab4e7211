"""`Fetcher`: brings records that only the publisher broker's process can read, over a connection of its own."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from dq.client.link import error_of
from dq.client.quitting import quit_if_asked
from dq.client.wishes import reconnect_of
from dq.config import LIMITS
from dq.errors import BrokerError, BrokerLost, Closed
from dq.model.event import Event, EventOwner, EventType, decode
from dq.transport.peer import Peer

_OWNER = EventOwner.READER
_LOOK_SECONDS = 0.1  # how often one who waits looks whether somebody still wants it


class Fetcher:
    """Asks and waits. Safe to share between threads; it connects when it is first needed, and again when it must.

    Args:
        root: the data directory.
    """

    def __init__(self, root: Path) -> None:
        self._root, self._lock = root, threading.Lock()
        self._patience = reconnect_of(root, None)
        self._peer: Peer | None = None
        self._requests = 0
        self._closed = False

    def fetch(self, stream: str, bucket: int, first: int, count: int, size: int) -> tuple[int, bytes]:
        """So many records from an offset on, of so many bytes: how many came, and their lines.

        Raises:
            BackendFailed: the class that keeps them failed. UnknownStream: they are gone.
            BrokerLost: the broker did not come back in time, or did not answer.
        """
        wanted = {"stream": stream, "bucket": bucket, "first": first, "count": count, "size": size}
        deadline = time.monotonic() + self._patience
        with self._lock:
            while True:
                try:
                    answer = self._ask(wanted, deadline)
                    break
                except BrokerError:
                    self._drop()
                    if time.monotonic() >= deadline:
                        raise
                quit_if_asked()
                time.sleep(_LOOK_SECONDS)
        if answer.type is EventType.NACK:
            raise error_of(answer)
        return answer["count"], bytes(answer.body)

    def _ask(self, wanted: dict[str, object], deadline: float) -> Event:
        if self._closed:
            raise Closed("this reader was closed: make a new one")
        peer = self._peer or self._connect()
        self._requests += 1
        peer.send(Event(EventType.READ, _OWNER, {"credit": 0, "request": self._requests, **wanted}))
        while True:
            frame = peer.receive(_LOOK_SECONDS)
            quit_if_asked()
            if self._closed:
                raise Closed("this reader was closed: make a new one")
            if frame is None:
                if time.monotonic() >= deadline:
                    raise BrokerLost("the broker did not bring the records in time")
                continue
            answer = decode(frame)
            if answer.get("request") == self._requests:  # else it is for one who did not want it any more
                return answer

    def _connect(self) -> Peer:
        peer = Peer(self._root)
        fields = {"id": f"r-{os.urandom(6).hex()}", "pid": os.getpid(), "streams": []}
        try:
            answer = peer.ask(Event(EventType.REGISTER, _OWNER, fields), LIMITS.start_seconds)
            if answer.type is EventType.NACK:
                raise error_of(answer)
        except BaseException:
            peer.close()
            raise
        self._peer = peer
        return peer

    def _drop(self) -> None:
        if self._peer is not None:
            self._peer.close()
            self._peer = None

    def close(self) -> None:
        """Leaves; safe twice."""
        self._closed = True
        with self._lock:
            self._drop()

"""The manager's door as it is minded: clients are let in, a lack of descriptors is waited out, a lost door is made anew."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from dq.config import LIMITS
from dq.errors import BrokerError
from dq.model.told import about, words_of
from dq.transport.door import Door, peer_uid
from dq.transport.poller import Poller

log = logging.getLogger("dq")


class Entrance:
    """Lets in who knocks.

    Args:
        root: the data directory, whose lock is held.
        poller: the manager's loop.
        on_knock: called with the connection of each client that may come in.
    """

    def __init__(self, root: Path, poller: Poller, on_knock: Callable[[socket.socket], None]) -> None:
        self._root, self._poller, self._on_knock = root, poller, on_knock
        self._door: Door | None = None
        self.reopens_at: float | None = None

    def open(self) -> None:
        """Opens the door. Raises BrokerError when no socket can be made."""
        self._door = Door(self._root)
        self._poller.add(self._door.sock, self._accept)

    def _accept(self) -> None:
        if self._door is not None:
            self._accept_at(self._door)

    def _accept_at(self, door: Door) -> bool:
        """Lets one in; False when nobody waits, or nobody can be let in."""
        try:
            sock, _ = door.sock.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return False
        except OSError as error:
            # Out of descriptors: who is in stays in, and the next one waits at the door, which stays ready to be read.
            log.error("no client can be let in for now: %s", error.strerror, extra=about(error))
            self._poller.remove(door.sock)
            self.reopens_at = time.monotonic() + LIMITS.accept_pause_seconds
            return False
        if peer_uid(sock) not in (os.getuid(), 0):
            log.warning("a client of another user was refused")
            sock.close()
            return True
        self._on_knock(sock)
        return True

    def tend(self, now: float) -> None:
        """Lets clients in again after a pause."""
        if self._door is not None and self.reopens_at is not None and self.reopens_at <= now:
            self.reopens_at = None
            self._poller.add(self._door.sock, self._accept)

    def mend(self) -> None:
        """Makes the door anew where its file was removed or replaced; who is in notices nothing."""
        if self._door is None or self._door.in_place:
            return
        log.warning("the socket of %s was removed or replaced: it is made anew", words_of(str(self._root)))
        try:
            door = Door(self._root)
        except (BrokerError, OSError) as error:
            log.error("%s", words_of(error), extra=about(error))
            return
        while self._accept_at(self._door):  # who still waits at the old one
            pass
        self._poller.remove(self._door.sock)
        self._door.close()
        self._door, self.reopens_at = door, None
        self._poller.add(door.sock, self._accept)

    def close(self) -> None:
        """Closes the door; safe twice."""
        if self._door is not None:
            self._poller.remove(self._door.sock)
            self._door.close()
            self._door = None

"""`BrokerManager`: starts a broker for this script, and stops it at the end."""

from __future__ import annotations

import contextlib
import os
import subprocess

from dq.client.broker import Broker
from dq.client.place import root_of
from dq.client.starter import start_attached
from dq.config import LIMITS
from dq.errors import DqError, Forked
from dq.model.event import EventType

# The manager kills what has not stopped within the limit; it is killed itself when it has not managed that either.
_MARGIN_SECONDS = 1.0


class BrokerManager(Broker):
    """The broker of a data directory, started by this process. A context manager.

    It is a process of its own, with two more: the publisher broker and the consumer broker. They leave when this process
    ends, however it ends.

    Args:
        path: the data directory, made if it is not there; None: as `dq.connect`.
        log_level: of the broker's processes, on standard error; default None: as the settings say, else WARNING.
        log_format: "text", "json", or "auto": colours on a terminal; default None: as the settings say, else "auto".

    Raises:
        BrokerRunning: another one serves the directory; the message names its pid.
        Damaged, NewerFormat, InUse, InvalidSetting: as their names say.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None = None, *, log_level: int | None = None, log_format: str | None = None
    ) -> None:
        root = root_of(path)
        self._process: subprocess.Popen[bytes] | None = start_attached(root, log_level, log_format)
        try:
            super().__init__(root)
        except BaseException:
            self._end(LIMITS.stop_seconds)
            raise

    def stop(self, timeout: float = LIMITS.stop_seconds) -> None:
        """Stops it in order: no new clients, what has arrived is committed and answered, the sinks are synced. Safe twice.

        Args:
            timeout: seconds after which what is left is killed; nothing that was confirmed is lost by it.
        """
        if self._process is None:
            return
        with contextlib.suppress(DqError):
            self._close_clients(timeout / 2)
            if self._teller is not None:
                self._teller.close()
            if self._process.poll() is None:  # else another manager may serve the directory by now
                self.ask(EventType.SHUTDOWN, {"seconds": timeout})
        super().close()
        self._end(timeout + _MARGIN_SECONDS)

    def _end(self, timeout: float) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()  # the lifeline: it stops by itself
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def close(self) -> None:
        """The same as `stop()`."""
        self.stop()

    def after_fork(self, refusal: Forked) -> None:
        """In a forked child: the broker is the parent's, and the child must not hold its lifeline."""
        super().after_fork(refusal)
        process, self._process = self._process, None
        if process is not None:
            process.returncode = 0  # not this process's child: it is neither waited for nor warned about
            if process.stdin is not None:
                process.stdin.close()

    def __enter__(self) -> BrokerManager:
        return self

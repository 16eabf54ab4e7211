"""`connect`: attaches to the broker of a data directory, and starts one if that is wished."""

from __future__ import annotations

import contextlib
import os
import time

from dq.client.broker import Broker
from dq.client.place import root_of
from dq.client.starter import start_detached
from dq.config import LIMITS
from dq.errors import BrokerLost, BrokerNotRunning, BrokerRunning

_RETRY_SECONDS = 0.05


def connect(
    path: str | os.PathLike[str] | None = None,
    *,
    start: bool = False,
    log_level: int | None = None,
    log_format: str | None = None,
) -> Broker:
    """Attaches to the broker that serves a data directory.

    Args:
        path: the data directory; None: $DQ_DIR, else found upwards from here, else `queue_data` here.
        start: start a broker if none runs; it leaves `broker_linger` (10 s) after its last client.
        log_level, log_format: of a broker that is started, as of `BrokerManager`.

    Raises:
        BrokerNotRunning: none runs, and none was to be started.
    """
    root = root_of(path)
    try:
        return Broker(root)
    except (BrokerNotRunning, BrokerLost):  # lost: it was about to leave
        if not start:
            raise
    deadline = time.monotonic() + LIMITS.start_seconds
    while True:
        # Another process may start one at the same moment, or an old one may be leaving: it has the lock and no open door.
        with contextlib.suppress(BrokerRunning):
            start_detached(root, log_level, log_format=log_format)
        try:
            return Broker(root)
        except (BrokerNotRunning, BrokerLost):
            if time.monotonic() >= deadline:
                raise
        time.sleep(_RETRY_SECONDS)

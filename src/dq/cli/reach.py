"""The broker that a command works with: the one that runs, or one that it was told to start."""

from __future__ import annotations

from pathlib import Path

from dq.cli.options import START
from dq.client.attach import connect
from dq.client.broker import Broker
from dq.client.place import is_data_directory
from dq.errors import BrokerNotRunning
from dq.operator_logs import LogWish


def reached(root: Path, start: str, logs: LogWish | None = None) -> Broker:
    """The broker of a data directory; one is started if that was said, and the directory made if that was.

    Args:
        start: what was said: "", "start" or "create".
        logs: how one that is started is to log; None: as the settings say.

    Raises:
        BrokerNotRunning: none runs, and none was to be started, or not in a directory that is not there.
    """
    if start == START and not is_data_directory(root):
        raise BrokerNotRunning(
            f"there is no data directory {root}, and --start makes none: say --create, or name the one you mean, as by --data "
            "or DQ_DIR"
        )
    return connect(
        root,
        start=bool(start),
        log_level=None if logs is None else logs.level,
        log_format=None if logs is None else logs.form,
    )

"""How a command ends."""

from __future__ import annotations

import signal
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes; those of sysexits.h where there is one."""

    WELL = 0
    FAILED = 1
    USAGE = 2
    DAMAGED = 65
    IO = 74
    IN_USE = 75
    NOT_PERMITTED = 77
    INTERRUPTED = 128 + signal.SIGINT
    BROKEN_PIPE = 128 + signal.SIGPIPE

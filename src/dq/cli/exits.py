"""How a command ends: the one table of exit codes. `docs/commands.md` shows it, and a test compares both."""

from __future__ import annotations

import signal
from enum import IntEnum
from typing import Final


class Exit(IntEnum):
    """Exit codes; those of sysexits.h where there is one."""

    WELL = 0
    FAILED = 1
    USAGE = 2
    NOTHING = 3
    UNKNOWN = 4
    DAMAGED = 65
    NO_BROKER = 69
    IO = 74
    IN_USE = 75
    NOT_PERMITTED = 77
    INTERRUPTED = 128 + signal.SIGINT
    BROKEN_PIPE = 128 + signal.SIGPIPE


MEANINGS: Final[dict[Exit, str]] = {
    Exit.WELL: "done",
    Exit.FAILED: "an error",
    Exit.USAGE: "wrong arguments or settings",
    Exit.NOTHING: "nothing was there in time",
    Exit.UNKNOWN: "no such stream, sink or record",
    Exit.DAMAGED: "a log is damaged, or written by a newer version",
    Exit.NO_BROKER: "no broker is running",
    Exit.IO: "input or output failed, or the disk is full",
    Exit.IN_USE: "in use by another process, which the message names",
    Exit.NOT_PERMITTED: "not permitted",
    Exit.INTERRUPTED: "interrupted by Ctrl-C",
    Exit.BROKEN_PIPE: "whoever read the output has left",
}
"""What each code says."""

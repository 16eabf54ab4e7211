"""How an error of dq ends a command: by which code."""

from __future__ import annotations

import errno

from dq.cli.exits import Exit
from dq.errors import (
    BrokerLost,
    BrokerNotRunning,
    BrokerRunning,
    Damaged,
    DiskFull,
    DqError,
    InUse,
    InvalidName,
    InvalidPayload,
    InvalidSetting,
    LogError,
    NewerFormat,
    UnknownRecord,
    UnknownSink,
    UnknownStream,
)

_CODES: tuple[tuple[type[BaseException], Exit], ...] = (
    (InUse, Exit.IN_USE),
    (BrokerRunning, Exit.IN_USE),
    (BrokerNotRunning, Exit.NO_BROKER),
    (BrokerLost, Exit.NO_BROKER),
    (UnknownStream, Exit.UNKNOWN),
    (UnknownSink, Exit.UNKNOWN),
    (UnknownRecord, Exit.UNKNOWN),
    (Damaged, Exit.DAMAGED),
    (NewerFormat, Exit.DAMAGED),
    (PermissionError, Exit.NOT_PERMITTED),
    (LogError, Exit.IO),
    (DiskFull, Exit.IO),
    (InvalidSetting, Exit.USAGE),
    (InvalidPayload, Exit.USAGE),
    (InvalidName, Exit.USAGE),
)
_NO_OUTPUT = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})


def code_of(error: DqError | OSError) -> Exit:
    """The exit code for an error that ended a command."""
    if isinstance(error.__cause__, PermissionError) and isinstance(error, LogError):
        return Exit.NOT_PERMITTED
    if isinstance(error, OSError) and error.errno in _NO_OUTPUT:
        return Exit.IO
    return next((code for kind, code in _CODES if isinstance(error, kind)), Exit.FAILED)

"""A directory below a shared one, `/tmp` or the like, that this user alone can enter."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from dq.errors import DqError


def private_path(base: Path) -> Path:
    """`base/dq-<uid>`."""
    return base / f"dq-{os.getuid()}"


def private_directory(base: Path) -> Path:
    """`private_path(base)`, made if it is missing.

    Raises:
        DqError: something else has its name, as somebody could have put there. OSError: it cannot be made.
    """
    directory = private_path(base)
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise DqError(f"{directory} is not a private directory of yours: remove it")
    return directory

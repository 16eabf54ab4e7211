"""Directories of dq: plain ones of this user's, that others cannot write to."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from dq.errors import Damaged, LogError, SyncFailed
from dq.log import system
from dq.log.files import Files, mapped


def check_directory(files: Files, path: Path) -> None:
    """Raises LogError if `path` is not a directory of ours that others cannot write to; Damaged if it is none at all."""
    with mapped(path, "look at"):
        state = files.state(path)
    if not stat.S_ISDIR(state.st_mode):
        raise Damaged(f"{path} is not a directory: dq follows no links; put the real one there")
    owner = system.owner()
    if owner not in (None, state.st_uid):
        raise LogError(
            f"{path} belongs to uid {state.st_uid}, and this process runs as {owner}: chown it, or run as its owner"
        ) from PermissionError(errno.EPERM, os.strerror(errno.EPERM))
    if system.is_writable_by_others(state):
        raise LogError(f"{path} can be written by other users: chmod 700 {path}")


def make_directory(files: Files, path: Path) -> None:
    """Makes `path` if it is missing, so that it lasts. Raises LogError; SyncFailed where the disk did not confirm it."""
    with mapped(path, "make"):
        files.make_directory(path)
    try:
        files.sync_directory(path.parent)
    except OSError as error:
        raise SyncFailed(f"the disk did not confirm that {path} was made: {error.strerror or error}") from error
    check_directory(files, path)

"""Removing a queue with all that is in it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from dq.embedded.store import checked_path, take_lock
from dq.errors import InvalidSetting, SettingsMismatch
from dq.log.files import Files, mapped
from dq.log.queue_file import KINDS, QueueLayout, read_queue


def remove_queue(path: str | os.PathLike[str]) -> None:
    """Removes a `PersistentQueue`, or a `dq.embedded.Queue`, with all its items.

    Raises:
        InUse: it is open; the message has the pid. InvalidSetting: there is none. SettingsMismatch: it is an `MpmcQueue`.
        LogError: a file cannot be removed.
    """
    _remove(checked_path(path), "persistent", "standard")


def remove_mpmc_queue(path: str | os.PathLike[str]) -> None:
    """Removes an `MpmcQueue` with all its items and labels. Raises as `remove_queue`."""
    _remove(checked_path(path), "mpmc")


def _remove(root: Path, *kinds: str) -> None:
    files, layout = Files(), QueueLayout(root)
    if not layout.description.is_file():
        raise InvalidSetting(f"there is no queue in {root}")
    with take_lock(root):
        described = read_queue(files, root)
        if described.kind not in kinds:
            raise SettingsMismatch(f"{root} is {KINDS[described.kind]}: remove it as what it is")
        with mapped(root, "remove"):
            for path in (layout.items, layout.cursors, layout.quarantine, layout.clean_mark, layout.reserve):
                with contextlib.suppress(FileNotFoundError):
                    files.remove_tree(path)
            # Last: until it is gone another removal can end what this one began.
            files.unlink(layout.description)
    # Whoever takes the lock between these lines finds out that its file is gone, and makes it anew.
    for path in (layout.lock, layout.lock.with_name(layout.lock.name + ".pid")):
        with contextlib.suppress(OSError):
            files.unlink(path)
    with contextlib.suppress(OSError):  # somebody else's file is in it, and stays
        files.remove_directory(root)

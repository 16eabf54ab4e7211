"""The data directory as its manager holds it: taken alone, known by its file, and watched while it is served."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import orjson

from dq.errors import BrokerRunning, InvalidSetting
from dq.log.directories import make_directory
from dq.log.file_system import check_file_system
from dq.log.files import Files, mapped
from dq.log.format import FORMAT, check_format, json_object
from dq.log.layout import Layout
from dq.log.locks import HeldLock, hold
from dq.log.queue_file import is_queue
from dq.log.sealed import SMALL_FILE_BYTES_MAX, blamed
from dq.model.told import words_of

log = logging.getLogger("dq")


class Directory:
    """One data directory, for the one process that serves it.

    Args:
        root: its path; made if it is not there.
        files: the file layer.
    """

    def __init__(self, root: Path, files: Files) -> None:
        self.root, self._files = root, files
        self._lock: HeldLock | None = None
        self._fd = -1

    def take(self) -> None:
        """Takes it for this process.

        Raises:
            BrokerRunning: another manager has it; the message names its pid.
            NewerFormat, Damaged: it is not ours to serve.
            LogError: it cannot be made or used, or lies on a file system of a network.
            InvalidSetting: it is an embedded queue.
        """
        with mapped(self.root, "look into"):
            embedded = is_queue(self.root)
        if embedded:
            raise InvalidSetting(
                f"{self.root} is an embedded queue (it has queue.json): open it with dq.embedded, and give the broker a "
                "directory of its own"
            )
        make_directory(self._files, self.root)
        warning = check_file_system(self.root)
        self._lock = hold(Layout(self.root).manager_lock, 0.0, f"the data directory {self.root}", error=BrokerRunning)
        if warning is not None:
            log.warning("%s", words_of(warning))
        with mapped(self.root, "open"):
            # Held open, so that no other directory gets its inode number while this one is served.
            self._fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._check_identity()

    def _check_identity(self) -> None:
        path = Layout(self.root).instance
        try:
            with blamed(path, "if this is dq's directory, remove that one file"):
                check_format(json_object(self._files.read_whole(path, SMALL_FILE_BYTES_MAX)))
        except FileNotFoundError:
            content = orjson.dumps({"format": FORMAT, "instance": os.urandom(8).hex()}, option=orjson.OPT_APPEND_NEWLINE)
            with mapped(path, "write"):
                self._files.write_atomically(path, content)

    def lost(self) -> str | None:
        """What became of it, where it is no longer at its path: deleted, replaced, unmounted, emptied; else None."""
        try:
            there = os.lstat(self.root)
        except OSError as error:
            return f"it is gone ({error.strerror})"
        if not os.path.samestat(there, os.fstat(self._fd)):
            return "another one is in its place"
        if self._lock is not None and not self._lock.in_place:
            return f"its {self._lock.path.name} is gone or was replaced, so that another manager could take it"
        return None

    def release(self) -> None:
        """Lets the next manager in; safe twice."""
        if self._lock is not None:
            self._lock.release()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

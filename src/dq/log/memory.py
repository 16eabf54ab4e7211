"""The `memory` backend: the same segments on a tmpfs, never flushed, bounded, gone with the manager.

They lie in a private directory of the user's own, in `/dev/shm` where there is one and in the temporary directory elsewhere::

    /dev/shm/dq-<uid>/<hash of the data directory>/<stream>/<bucket>/*.jsonl

A broker that is started in place of one that died finds them; the first one of a manager empties the place.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

from dq.errors import QueueFull
from dq.log.bucket_log import BucketLog, recover
from dq.log.files import Files, mapped
from dq.log.format import Identity
from dq.log.quarantine import Quarantine
from dq.log.reader import BucketReader
from dq.log.storage import Batch, BucketPlace, StorageBackend, Stored
from dq.model.settings import MEMORY
from dq.private import private_directory, private_path

NAME = MEMORY
_SEGMENTS = 16  # what consumers are through with is given back in parts of this size


def place_of(root: Path) -> Path:
    """Where the streams in memory of a data directory lie; it need not exist."""
    name = hashlib.sha256(os.fsencode(root.absolute())).hexdigest()[:16]
    return private_path(_base()) / name


def _base() -> Path:
    shared = Path("/dev/shm")  # noqa: S108 - the directory in it is checked
    return shared if os.access(shared, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())


def remove(files: Files, root: Path) -> None:
    """Gives all of the memory back: a manager begins and ends with none. Raises LogError."""
    place = place_of(root)
    with mapped(place, "empty"), contextlib.suppress(FileNotFoundError):
        files.remove_tree(place)


def _bucket(directory: Path) -> Path:
    """Where the segments of the bucket of this directory are."""
    return place_of(directory.parents[2]) / directory.parent.name / directory.name


class MemoryLog(BucketLog):
    """The writing side. What it holds is bounded: a segment goes as soon as every sink has settled it."""

    def append(self, batch: Batch) -> Stored:
        """As `StorageWriter.append`. Raises QueueFull where the memory is used up."""
        held = self.stats().bytes + self.staged_bytes
        if held + len(batch.lines) > self._limits.memory_bytes_max:
            raise QueueFull(
                f"{self.identity} is kept in memory and holds {held:,} bytes of {self._limits.memory_bytes_max:,}: "
                "publish again when consumers have settled some"
            )
        return super().append(batch)

    def clean_mark(self) -> None:
        """None: it begins anew with the next manager."""


class MemoryBackend(StorageBackend):
    """The `memory` backend. `place.directory` is the bucket's in the data directory, where nothing is kept."""

    @classmethod
    def open_writer(cls, place: BucketPlace, identity: Identity, clean: dict[str, Any] | None) -> MemoryLog:
        """See `StorageBackend.open_writer`."""
        files, limits = place.files, place.limits
        kept, size = _bucket(place.directory), min(place.segment_bytes, limits.memory_bytes_max // _SEGMENTS)
        with mapped(kept, "make"):
            private_directory(_base())
            for missing in (kept.parent.parent, kept.parent, kept):
                files.make_directory(missing)
        quarantine = Quarantine(files, place.directory.parents[2] / "quarantine")
        recovered = recover(files, kept, identity, size, limits, quarantine, place.durability)
        return MemoryLog(files, kept, identity, size, recovered, limits, durability=place.durability)

    @classmethod
    def open_reader(cls, place: BucketPlace) -> BucketReader:
        """See `StorageBackend.open_reader`."""
        return BucketReader(place.files, _bucket(place.directory), place.limits)

    @classmethod
    def destroy(cls, place: BucketPlace) -> None:
        """See `StorageBackend.destroy`."""
        with contextlib.suppress(FileNotFoundError):
            place.files.remove_tree(_bucket(place.directory))

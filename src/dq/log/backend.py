"""The storage backends by name: who writes and who reads a bucket. What they must do is in `storage.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from dq.config import LIMITS, Limits
from dq.errors import InvalidSetting
from dq.log import memory
from dq.log.bucket_log import BucketLog
from dq.log.files import Files
from dq.log.format import Identity
from dq.log.reader import BucketReader
from dq.log.storage import Batch, End, Slice, StorageReader, StorageStats, StorageWriter, Stored

__all__ = [
    "Backend",
    "Batch",
    "End",
    "Slice",
    "StorageReader",
    "StorageStats",
    "StorageWriter",
    "Stored",
    "get_backend",
    "register_backend",
]


class WriterFactory(Protocol):
    """Opens the writing side of a bucket in `directory`, which exists; `clean` is what `clean_mark()` gave last time."""

    def __call__(
        self,
        files: Files,
        directory: Path,
        identity: Identity,
        segment_bytes: int,
        clean: dict[str, Any] | None,
        limits: Limits = LIMITS,
        *,
        durability: str = "sync",
    ) -> StorageWriter: ...


ReaderFactory = Callable[[Files, Path, Limits], StorageReader]
Destroyer = Callable[[Files, Path], None]


class Backend(NamedTuple):
    """One way to store a bucket: its two sides, and what removes what is kept outside the bucket's directory."""

    writer: WriterFactory
    reader: ReaderFactory
    destroy: Destroyer


_BACKENDS: dict[str, Backend] = {}


def register_backend(
    name: str, writer_factory: WriterFactory, reader_factory: ReaderFactory, destroyer: Destroyer = lambda _files, _path: None
) -> None:
    """Makes a backend known under `name`; the last one of a name counts."""
    _BACKENDS[name] = Backend(writer_factory, reader_factory, destroyer)


def get_backend(name: str) -> Backend:
    """Raises InvalidSetting, with the list of known ones."""
    try:
        return _BACKENDS[name]
    except KeyError:
        known = ", ".join(map(repr, sorted(_BACKENDS)))
        raise InvalidSetting(f"no storage backend {name!r}; known are {known}") from None


register_backend("json", BucketLog.open, BucketReader)
register_backend(memory.NAME, memory.open_writer, memory.open_reader, memory.destroy)

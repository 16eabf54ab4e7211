"""A storage backend that is full while a file says so, in a module of its own, which the broker imports by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dq import BucketPlace, DiskFull, QueueFull
from dq.log.backend import JsonBackend
from dq.log.bucket_log import BucketLog
from dq.log.format import Identity


class FullBackend(JsonBackend):
    """dq's own, whose bucket 0 takes nothing while there is a file that the option `full` names: it has the error's name."""

    @classmethod
    def open_writer(cls, place: BucketPlace, identity: Identity, clean: dict[str, Any] | None) -> BucketLog:
        writer = super().open_writer(place, identity, clean)
        if place.directory.name != "0" or place.directory.parent.name.endswith("-later"):
            return writer
        full, append, commit = Path(place.options["full"]), writer.append, writer.commit

        def full_append(batch: Any) -> Any:
            if full.exists() and full.read_text() == "QueueFull":
                raise QueueFull("it is full")
            return append(batch)

        def full_commit() -> Any:
            if full.exists() and full.read_text() == "DiskFull":
                writer._drop_staged()
                raise DiskFull("there is no room")
            return commit()

        writer.append, writer.commit = full_append, full_commit  # type: ignore[method-assign]
        return writer

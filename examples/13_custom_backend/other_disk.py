"""A storage backend that keeps a stream on another disk."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from dq import BucketPlace, StorageBackend, get_backend_class

SEGMENTS = get_backend_class("json")


class OtherDisk(StorageBackend):
    """dq's own segments, below the directory that the option `disk` names."""

    @staticmethod
    def moved(place: BucketPlace) -> BucketPlace:
        """`<disk>/streams/<stream>/<bucket>` in place of that directory in `queue_data`."""
        return replace(place, directory=Path(place.options["disk"], *place.directory.parts[-3:]))

    @classmethod
    def open_writer(cls, place: BucketPlace, identity: Any, clean: dict[str, Any] | None) -> Any:
        """Called in the publisher broker's process."""
        cls.moved(place).directory.mkdir(parents=True, exist_ok=True)
        return SEGMENTS.open_writer(cls.moved(place), identity, clean)

    @classmethod
    def open_reader(cls, place: BucketPlace) -> Any:
        """Called in the consumer broker's process, and in that of each reader."""
        return SEGMENTS.open_reader(cls.moved(place))

    @classmethod
    def destroy(cls, place: BucketPlace) -> None:
        """The stream was destroyed."""
        shutil.rmtree(cls.moved(place).directory, ignore_errors=True)

"""Storage backends as a user writes them, in a module of their own, which the broker imports by its name."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

from dq import BucketPlace, StorageBackend
from dq.log.bucket_log import BucketLog, recover
from dq.log.format import Identity
from dq.log.quarantine import Quarantine
from dq.log.reader import BucketReader


class ElsewhereBackend(StorageBackend):
    """dq's own segments, in a directory that the option `place` names."""

    @staticmethod
    def _bucket(place: BucketPlace) -> Path:
        root = Path(place.options.get("place") or place.directory / "elsewhere")
        return root / place.directory.parent.name / place.directory.name

    @classmethod
    def open_writer(cls, place: BucketPlace, identity: Identity, clean: dict[str, Any] | None) -> BucketLog:
        bucket = cls._bucket(place)
        bucket.mkdir(mode=0o700, parents=True, exist_ok=True)
        if clean is not None:
            quarantine = bucket.parent / "quarantine"
            return BucketLog.open(
                place.files, bucket, identity, place.segment_bytes, clean, place.limits, quarantine=quarantine
            )
        torn = Quarantine(place.files, bucket.parent / "quarantine")
        found = recover(place.files, bucket, identity, place.segment_bytes, place.limits, torn, place.durability)
        return BucketLog(place.files, bucket, identity, place.segment_bytes, found, place.limits)

    @classmethod
    def open_reader(cls, place: BucketPlace) -> BucketReader:
        return BucketReader(place.files, cls._bucket(place), place.limits)

    @classmethod
    def destroy(cls, place: BucketPlace) -> None:
        place.files.remove_tree(cls._bucket(place))


class ClumsyBackend(ElsewhereBackend):
    """Raises what no contract names: at the commit of a record that says so, or when it is opened."""

    @classmethod
    def open_writer(cls, place: BucketPlace, identity: Identity, clean: dict[str, Any] | None) -> BucketLog:
        if place.options.get("refuses"):
            raise ZeroDivisionError("it cannot be opened")
        writer = super().open_writer(place, identity, clean)
        commit, append = writer.commit, writer.append

        def clumsy_append(batch: Any) -> Any:
            if b"refuse me" in batch.lines:
                raise KeyError("refuse me")
            return append(batch)

        def clumsy_commit() -> Any:
            if any(b"break" in part for part in writer._parts):
                raise ZeroDivisionError("it broke")
            return commit()

        writer.append, writer.commit = clumsy_append, clumsy_commit  # type: ignore[method-assign]
        return writer


class Notebook:
    """The other form: async methods over dicts. Keeps what it has in a file, and notes in another one what is called."""

    def __init__(self, bucket_id: int, storage_path: str, batch_size: int = 100, **options: Any) -> None:
        self.options = options
        self._path = Path(storage_path)
        self._path.mkdir(parents=True, exist_ok=True)
        self._file, self._calls = self._path / "records.jsonl", self._path / "calls"
        self._file.touch()
        self._note(f"made {bucket_id} {sorted(options.items())}")

    def _note(self, what: str) -> None:
        with self._calls.open("a") as calls:
            calls.write(what + "\n")

    def _records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._file.read_text().splitlines()]

    async def put(self, record: dict[str, Any]) -> None:
        await self.put_batch([record])

    async def put_batch(self, records: list[dict[str, Any]]) -> None:
        self._note(f"put_batch {len(records)}")
        if any(record.get("wait") for record in records):
            await asyncio.sleep(3600)
        if any(record.get("bad") for record in records):
            raise ValueError("a bad record")
        with self._file.open("a") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)

    async def get(self, offset: int, limit: int) -> list[dict[str, Any]]:
        self._note(f"get {offset}")
        return self._records()[offset : offset + limit]

    async def flush(self) -> None:
        self._note("flush")

    async def total_count(self) -> int:
        return len(self._records())


class Shoebox:
    """The least that the other form needs, and slow at that."""

    def __init__(self) -> None:
        self._records: list[dict[str, Any]] = []

    async def put(self, record: dict[str, Any]) -> None:
        if record.get("bad"):
            raise ValueError("a bad record")
        if record.get("hang"):
            time.sleep(record["hang"])
        self._records.append(record)

    async def get(self, offset: int, limit: int) -> list[dict[str, Any]]:
        return self._records[offset : offset + limit]

    async def flush(self) -> None:
        pass

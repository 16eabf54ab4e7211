"""The custom backend of the other system's page, with the dots filled in; and one that shows its options."""

from __future__ import annotations

import json
from pathlib import Path


class MyBackend:
    def __init__(self):
        self.records = []

    async def put(self, record):
        self.records.append(record)

    async def get(self, offset, limit):
        return self.records[offset : offset + limit]

    async def flush(self):
        pass


class Persisting:
    def __init__(self, bucket_id, storage_path, batch_size=100, enable_wal=False):
        Path(storage_path).mkdir(parents=True, exist_ok=True)
        self.wal = Path(storage_path) / f"wal-{enable_wal}.jsonl"
        self.wal.touch()

    async def put(self, record):
        with self.wal.open("a") as wal:
            wal.write(json.dumps(record) + "\n")

    async def get(self, offset, limit):
        return [json.loads(line) for line in self.wal.read_text().splitlines()[offset : offset + limit]]

    async def flush(self):
        pass

    async def total_count(self):
        return len(self.wal.read_text().splitlines())

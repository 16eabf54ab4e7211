"""The `json` backend keeps the contract of a storage backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from backend_conformance import SMALL, Conformance, Opener, ReaderOf
from log_rig import UUID
from sim_files import UnsyncedFiles

from dq.log.backend import BucketPlace, JsonBackend
from dq.log.format import Identity
from dq.log.storage import End, StorageReader, StorageWriter


class TestJsonBackend(Conformance):
    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        directory = tmp_path / "streams" / "emails" / "0"
        directory.mkdir(parents=True, mode=0o700)
        return directory

    @pytest.fixture
    def place(self, directory: Path) -> BucketPlace:
        return BucketPlace(UnsyncedFiles(), directory, 1000, limits=SMALL)

    @pytest.fixture
    def opener(self, place: BucketPlace) -> Opener:
        def opened(clean: dict[str, Any] | None = None) -> StorageWriter:
            identity = Identity("emails", 0, UUID, 1)
            return JsonBackend.open_writer(place, identity, clean)

        return opened

    @pytest.fixture
    def reader_of(self, place: BucketPlace) -> ReaderOf:
        def opened(end: End) -> StorageReader:
            reader = JsonBackend.open_reader(place)
            reader.advance(end)
            return reader

        return opened

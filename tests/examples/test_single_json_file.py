"""L10: the single JSON file keeps the contract of a storage backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from backend_conformance import SMALL, Conformance, Opener, ReaderOf
from lesson import EXAMPLES
from log_rig import UUID

from dq import BucketPlace
from dq.log.backend import Backend, backend_of
from dq.log.files import Files
from dq.log.format import Identity
from dq.log.storage import End, StorageReader, StorageWriter
from dq.model.settings import StreamSettings


@pytest.fixture
def backend() -> Backend:
    """As a broker finds it by the settings of a stream."""
    path = str(EXAMPLES / "14_single_json_file")
    return backend_of(StreamSettings(backend="one_file:OneFile", backend_path=path))


@pytest.fixture
def place(tmp_path: Path) -> BucketPlace:
    return BucketPlace(Files(), tmp_path, 1000, limits=SMALL)


class TestSingleJsonFile(Conformance):
    @pytest.fixture
    def opener(self, backend: Backend, place: BucketPlace) -> Opener:
        def opened(clean: dict[str, Any] | None = None) -> StorageWriter:
            return backend.open_writer(place, Identity("emails", 0, UUID, 1), clean)

        return opened

    @pytest.fixture
    def reader_of(self, backend: Backend, place: BucketPlace) -> ReaderOf:
        def opened(end: End) -> StorageReader:
            reader = backend.open_reader(place)
            reader.advance(end)
            return reader

        return opened

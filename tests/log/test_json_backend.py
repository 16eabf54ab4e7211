"""The `json` backend keeps the contract of a storage backend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from backend_conformance import SMALL, Conformance, Opener, ReaderOf
from log_rig import UUID
from sim_files import UnsyncedFiles

from dq.errors import InvalidSetting
from dq.log.backend import get_backend, register_backend
from dq.log.format import Identity
from dq.log.storage import End, StorageReader, StorageWriter


class TestJsonBackend(Conformance):
    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        directory = tmp_path / "streams" / "emails" / "0"
        directory.mkdir(parents=True, mode=0o700)
        return directory

    @pytest.fixture
    def opener(self, directory: Path) -> Opener:
        def opened(clean: dict[str, Any] | None = None) -> StorageWriter:
            identity = Identity("emails", 0, UUID, 1)
            return get_backend("json").writer(UnsyncedFiles(), directory, identity, 1000, clean, limits=SMALL)

        return opened

    @pytest.fixture
    def reader_of(self, directory: Path) -> ReaderOf:
        def opened(end: End) -> StorageReader:
            reader = get_backend("json").reader(UnsyncedFiles(), directory, SMALL)
            reader.advance(end)
            return reader

        return opened


def test_an_unknown_backend_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidSetting, match="'json'"):
        get_backend("punchcards")


def test_a_backend_can_be_added() -> None:
    json = get_backend("json")
    register_backend("mine", json.writer, json.reader)
    assert get_backend("mine") == json

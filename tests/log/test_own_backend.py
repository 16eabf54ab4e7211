"""A `StorageBackend` of the user's own keeps the same contract, and what it raises beyond that is told in words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from backend_conformance import SMALL, Conformance, Opener, ReaderOf
from log_rig import UUID, record, records
from own_backends import ClumsyBackend, ElsewhereBackend
from sim_files import UnsyncedFiles

from dq.errors import BackendFailed, StreamReadOnly
from dq.log.backend import Backend, BucketPlace, backend_of, wish_of
from dq.log.format import Identity
from dq.log.storage import Batch, End, StorageReader, StorageStats, StorageWriter
from dq.model.settings import StreamSettings

IDENTITY = Identity("emails", 0, UUID, 1)


def backend_for(cls: type) -> Backend:
    """As a broker finds it by the settings of a stream."""
    return backend_of(StreamSettings.from_dict(wish_of({"backend": cls})))


@pytest.fixture
def place(tmp_path: Path) -> BucketPlace:
    directory = tmp_path / "data" / "streams" / "emails" / "0"
    directory.mkdir(parents=True, mode=0o700)
    return BucketPlace(UnsyncedFiles(), directory, 1000, options={"place": str(tmp_path / "place")}, limits=SMALL)


class TestOwnBackend(Conformance):
    """P10: the suite of every backend, over a class of the user's own."""

    @pytest.fixture
    def opener(self, place: BucketPlace) -> Opener:
        def opened(clean: dict[str, Any] | None = None) -> StorageWriter:
            return backend_for(ElsewhereBackend).open_writer(place, IDENTITY, clean)

        return opened

    @pytest.fixture
    def reader_of(self, place: BucketPlace) -> ReaderOf:
        def opened(end: End) -> StorageReader:
            reader = backend_for(ElsewhereBackend).open_reader(place)
            reader.advance(end)
            return reader

        return opened

    def test_it_is_kept_where_the_class_says(self, opener: Opener, place: BucketPlace) -> None:
        writer = opener()
        writer.append(Batch("ada", 0, 1, record(0)))
        writer.commit()
        kept = Path(place.options["place"]) / "emails" / "0"
        assert [path.name for path in kept.iterdir()] == ["00000000000000000000.jsonl"]
        assert list(place.directory.iterdir()) == []
        backend_for(ElsewhereBackend).destroy(place)
        assert not kept.exists()


def test_a_batch_that_the_class_chokes_on_is_refused_with_its_error(place: BucketPlace) -> None:
    """P10: errors of the user's class are told in words."""
    writer = backend_for(ClumsyBackend).open_writer(place, IDENTITY, None)
    with pytest.raises(BackendFailed, match=r"ClumsyBackend failed to take a batch for .*KeyError.*refuse me"):
        writer.append(Batch("ada", 0, 1, b'{"at":1.5,"payload":"refuse me"}\n'))
    assert writer.append(Batch("ada", 0, 2, records(0, 2))).first == 0
    assert writer.commit().offset == 2


def test_after_a_commit_that_failed_in_its_own_way_it_takes_no_more(place: BucketPlace) -> None:
    writer = backend_for(ClumsyBackend).open_writer(place, IDENTITY, None)
    writer.append(Batch("ada", 0, 1, b'{"at":1.5,"payload":"break"}\n'))
    with pytest.raises(BackendFailed, match="ZeroDivisionError: it broke; whether the batch is stored is not known"):
        writer.commit()
    for act in (writer.commit, lambda: writer.append(Batch("ada", 0, 1, record(0)))):
        with pytest.raises(StreamReadOnly, match=r"until the broker has started again: .*it broke"):
            act()
    assert writer.clean_mark() is None


def test_one_that_cannot_be_opened_or_asked_says_why(place: BucketPlace) -> None:
    refusing = replace(place, options={**place.options, "refuses": True})
    with pytest.raises(BackendFailed, match=r"failed to open .*ZeroDivisionError: it cannot be opened"):
        backend_for(ClumsyBackend).open_writer(refusing, IDENTITY, None)
    writer = backend_for(ElsewhereBackend).open_writer(place, IDENTITY, None)
    writer._writer.stats = writer._writer.close = lambda: 1 / 0  # type: ignore[attr-defined]
    assert writer.stats() == StorageStats(0, 0, 0, 0)
    writer.close()


def test_one_that_lacks_something_of_the_contract_is_refused_as_it_is_opened(
    place: BucketPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P10: else it would end the broker when that is first asked for."""
    monkeypatch.setattr(ElsewhereBackend, "open_writer", lambda *_: SimpleNamespace(append=print, commit=print))
    with pytest.raises(BackendFailed, match=r"ElsewhereBackend opens has no clean_mark, close, .*: see .*StorageWriter"):
        backend_for(ElsewhereBackend).open_writer(place, IDENTITY, None)


def test_one_that_chokes_on_an_end_says_so_when_it_is_read(place: BucketPlace) -> None:
    """P10: to be told an end is nobody's request, so there is nobody to tell an error; the next read has it."""
    backend_for(ElsewhereBackend).open_writer(place, IDENTITY, None)
    reader = backend_for(ElsewhereBackend).open_reader(place)
    reader._reader.advance = lambda _: 1 / 0  # type: ignore[attr-defined]
    reader.advance(End(1, 0, 1))
    for act in (lambda: reader.read(0, 1, 1), lambda: reader.find(0.0)):
        with pytest.raises(BackendFailed, match="ZeroDivisionError"):
            act()

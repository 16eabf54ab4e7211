"""L10: the single JSON file keeps the contract of a storage backend, and fails the crash test."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from backend_conformance import SMALL, Conformance, Opener, ReaderOf
from history import Ok
from lesson import EXAMPLES
from log_rig import UUID
from test_crash import BUCKETS, STREAM, Theatre

from dq import BrokerManager, BucketPlace, Consumer
from dq.log.backend import Backend, backend_of
from dq.log.files import Files
from dq.log.format import Identity
from dq.log.storage import End, StorageReader, StorageWriter
from dq.model.settings import StreamSettings
from stage import kill, pids, until

KILLS_MAX = 20


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


def test_it_fails_the_crash_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """L10: under the load of the crash test, a kill at the wrong moment, and all that had a receipt is gone."""
    # Given a stream that is kept so, with a sink that keeps its records from being trimmed, and everybody at work
    monkeypatch.syspath_prepend(EXAMPLES / "14_single_json_file")
    backend = importlib.import_module("one_file").OneFile
    with BrokerManager(tmp_path / "q") as manager:
        manager.stream(STREAM, buckets=BUCKETS, segment_bytes=1 << 20, keep_seconds=0, backend=backend)
        Consumer(manager, STREAM, sink="archive").close()
    theatre = Theatre(tmp_path / "q", seed=10)
    try:
        theatre.await_progress("start")
        # When its publisher broker is killed, as the crash test does it
        closed = next(filter(None, (closed_after_a_kill(theatre) for _ in range(KILLS_MAX))), {})
        receipts = sum(len(entry.ids) for teller in theatre.publishers for entry in teller.history if isinstance(entry, Ok))
    finally:
        theatre.close()
    # Then the stream cannot be opened any more, and that does not pass
    assert "half written" in closed.get(STREAM, ""), f"not after {KILLS_MAX} kills"
    assert receipts > 0


def closed_after_a_kill(theatre: Theatre) -> dict[str, str]:
    """Kills the publisher broker; what the next one has closed, and why."""
    kill(pids(theatre.manager)[0])
    pids(theatre.manager)

    def told() -> dict[str, Any] | None:
        status: dict[str, Any] = theatre.manager.stats()["publisher_broker"]
        return status if "closed" in status else None

    closed: dict[str, str] = until(told, what="the next one tells how it is")["closed"]
    return closed

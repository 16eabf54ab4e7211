"""The `memory` backend keeps the contract of a storage backend, within a bound, and leaves nothing behind."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from backend_conformance import SMALL, Conformance, Opener, ReaderOf
from log_rig import UUID, records

from dq.errors import InvalidSetting, QueueFull
from dq.log import memory
from dq.log.backend import BucketPlace
from dq.log.files import Files
from dq.log.format import Identity
from dq.log.memory import MemoryBackend
from dq.log.storage import Batch, End, StorageReader, StorageWriter
from dq.model.settings import StreamSettings


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "streams" / "emails" / "0"
    directory.mkdir(parents=True, mode=0o700)
    yield directory
    memory.remove(Files(), tmp_path)
    assert not memory.place_of(tmp_path).exists()


def place_at(directory: Path) -> BucketPlace:
    return BucketPlace(Files(), directory, 1000, durability="memory", limits=SMALL)


@pytest.fixture
def opener(directory: Path) -> Opener:
    def opened(clean: dict[str, Any] | None = None) -> StorageWriter:
        identity = Identity("emails", 0, UUID, 1)
        return MemoryBackend.open_writer(place_at(directory), identity, clean)

    return opened


class TestMemoryBackend(Conformance):
    @pytest.fixture
    def reader_of(self, directory: Path) -> ReaderOf:
        def opened(end: End) -> StorageReader:
            reader = MemoryBackend.open_reader(place_at(directory))
            reader.advance(end)
            return reader

        return opened

    def test_it_goes_on_after_a_clean_stop(self, opener: Opener, reader_of: ReaderOf) -> None:
        """No mark is kept of it: with the next manager it begins anew."""
        writer = opener()
        writer.append(Batch("ada", 0, 1, records(0, 1)))
        writer.commit()
        assert writer.clean_mark() is None
        assert not opener().report.clean


def test_it_is_bounded_and_takes_records_again_when_some_were_settled(directory: Path) -> None:
    limits = replace(SMALL, memory_bytes_max=20_000)
    identity = Identity("emails", 0, UUID, 1)
    place = replace(place_at(directory), segment_bytes=1 << 20, limits=limits)
    writer = MemoryBackend.open_writer(place, identity, None)
    with pytest.raises(QueueFull, match="publish again when consumers have settled some"):
        publish_on(writer)
    sequence = writer.end.offset // 10
    assert 15_000 < writer.stats().bytes <= 21_000
    # When what is settled goes, the same batch is taken, with its number
    assert writer.trim(writer.end.offset) >= 10
    assert writer.append(Batch("ada", sequence, 10, records(10 * sequence, 10))).first == 10 * sequence
    writer.commit()


def publish_on(writer: StorageWriter) -> None:
    for sequence in range(1000):
        writer.append(Batch("ada", sequence, 10, records(10 * sequence, 10)))
        writer.commit()


def test_it_keeps_nothing_in_the_data_directory_and_lets_nobody_else_in(opener: Opener, directory: Path) -> None:
    writer = opener()
    writer.append(Batch("ada", 0, 1, records(0, 1)))
    writer.commit()
    assert list(directory.iterdir()) == []
    place = memory.place_of(directory.parents[2])
    assert [path.name for path in (place / "emails" / "0").iterdir()] == ["00000000000000000000.jsonl"]
    assert stat.S_IMODE(place.parent.stat().st_mode) == 0o700


def test_a_destroyed_stream_is_gone_from_memory(opener: Opener, directory: Path) -> None:
    writer = opener()
    writer.append(Batch("ada", 0, 1, records(0, 1)))
    writer.commit()
    MemoryBackend.destroy(place_at(directory))
    assert opener().end.offset == 0


def test_its_durability_is_memory_and_no_other() -> None:
    assert StreamSettings(backend="memory").durability == "memory"
    assert StreamSettings().durability == "sync"
    with pytest.raises(InvalidSetting, match="leave durability out"):
        StreamSettings(backend="memory", durability="sync")
    with pytest.raises(InvalidSetting, match="backend='memory'"):
        StreamSettings(durability="memory")

"""P10: a class in the other form, async put, get and flush of dicts, behind the contract of a bucket's writer."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from log_rig import UUID
from own_backends import Notebook, Shoebox
from sim_files import UnsyncedFiles

from dq.config import LIMITS
from dq.errors import (
    BackendFailed,
    InvalidPayload,
    InvalidSetting,
    OutcomeUnknown,
    ProtocolError,
    RecordTooLarge,
    SequenceError,
    StreamReadOnly,
)
from dq.log.adapter import Adapted, AdapterLog
from dq.log.fetched import FetchedReader
from dq.log.format import Identity
from dq.log.storage import Batch, BucketPlace, End, Stored

IDENTITY = Identity("emails", 3, UUID, 1)


@pytest.fixture
def place(tmp_path: Path) -> BucketPlace:
    return BucketPlace(UnsyncedFiles(), tmp_path, limits=replace(LIMITS, backend_seconds=5.0, kept_bytes_max=5_000))


def opened(cls: type, place: BucketPlace) -> AdapterLog:
    return Adapted(cls).open_writer(place, IDENTITY, None)


def batch(sequence: int, *payloads: Any, **fields: Any) -> Batch:
    lines = b"".join(orjson.dumps({"at": 1.5, "payload": each, **fields}) + b"\n" for each in payloads)
    return Batch("ada", sequence, len(payloads), lines, again=bool(sequence < 0))


def read(log: AdapterLog, first: int = 0, count: int = 100, size: int = 10_000) -> list[Any]:
    future: Future[Any] = Future()
    log.fetch(first, count, size, lambda done: future.set_result(done))
    return [orjson.loads(line)["payload"] for line in future.result(5).result()]


def calls(place: BucketPlace) -> list[str]:
    return (place.directory / "calls").read_text().splitlines()


def test_commits_put_flushes_flush_and_reads_get(place: BucketPlace) -> None:
    log = opened(Notebook, replace(place, options={"colour": "red"}))
    assert log.append(batch(0, {"n": 0}, {"n": 1}, key="k")) == Stored(0, 2, duplicate=False)
    assert log.append(batch(1, {"n": 2})).first == 2
    assert calls(place) == ["made 3 [('colour', 'red')]"]
    assert log.commit().offset == 3
    assert log.unsynced
    log.sync()
    assert not log.unsynced
    assert read(log, 1) == [{"n": 1}, {"n": 2}]
    assert calls(place)[1:] == ["put_batch 2", "put_batch 1", "flush", "get 1"]
    assert log.stats().end_offset == 3
    assert (log.segments(), log.trim(2), log.clean_mark()) == ([], 0, None)


@pytest.mark.parametrize("cls", [Notebook, Shoebox])
def test_a_batch_that_the_class_refuses_is_refused_and_those_before_it_stay(cls: type, place: BucketPlace) -> None:
    log = opened(cls, place)
    log.append(batch(0, {"n": 0}))
    log.append(batch(1, {"n": 1}, {"bad": True}))
    log.append(batch(2, {"n": 2}))
    stays = 0 if cls is Notebook else 1  # one by one, the first was put before the second was refused
    with pytest.raises(BackendFailed, match=f"ValueError: a bad record; {stays or 'nothing'} of the 2 records"):
        log.commit()
    assert log.end.offset == 1 + stays
    assert log.staged_bytes == 0
    # Its number is free again, and what follows stands behind what is there
    assert log.append(batch(1, {"n": 3})).first == 1 + stays
    log.commit()
    assert [each["n"] for each in read(log)] == ([0, 3] if cls is Notebook else [0, 1, 3])


def test_what_it_has_is_counted_when_it_is_opened(place: BucketPlace) -> None:
    class Uncounted(Notebook):
        total_count = None  # type: ignore[assignment]

    for start, cls in enumerate((Notebook, Notebook, Uncounted)):
        log = opened(cls, place)
        assert log.end == End(5 * start, 0, 5 * start)
        log.append(batch(0, *({"n": n} for n in range(5))))
        log.commit()


def test_a_batch_that_comes_again_is_known_by_the_process_that_took_it(place: BucketPlace) -> None:
    log = opened(Shoebox, place)
    first = batch(0, {"n": 0})
    log.append(first)
    log.commit()
    assert log.append(first) == Stored(0, 1, duplicate=True)
    with pytest.raises(SequenceError):
        log.append(batch(2, {"n": 2}))
    first.again, first.sequence = True, 7
    with pytest.raises(OutcomeUnknown):
        opened(Shoebox, place).append(first)


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (batch(0, "text"), InvalidPayload),
        (batch(0, {"n": 0}, topic="a"), InvalidPayload),
        (batch(0, {"n": 0}, headers={"a": "b"}), InvalidPayload),
        (Batch("ada", 0, 1, b'{"at":1.5,"base64":"AA=="}\n'), InvalidPayload),
        (Batch("ada", 0, 1, b"[]\n"), InvalidPayload),
        (Batch("ada", 0, 1, b"{\n"), ProtocolError),
        (Batch("ada", 0, 2, b'{"at":1.5,"payload":{}}\n'), ProtocolError),
        (Batch("ada", 0, 0, b""), ProtocolError),
        (Batch("ada", -1, 1, b'{"at":1.5,"payload":{}}\n'), ProtocolError),
        (batch(0, {"n": "x" * 6_000}), RecordTooLarge),
    ],
)
def test_what_such_a_class_cannot_keep_is_refused_and_changes_nothing(
    place: BucketPlace, sent: Batch, error: type[Exception]
) -> None:
    log = opened(Shoebox, place)
    with pytest.raises(error):
        log.append(sent)
    assert log.staged_bytes == 0
    assert log.append(batch(0, {"n": 0})).first == 0


def test_one_that_takes_too_long_is_given_up_and_takes_no_more(place: BucketPlace) -> None:
    log = opened(Notebook, replace(place, limits=replace(LIMITS, backend_seconds=0.05)))
    log.append(batch(0, {"wait": True}))
    with pytest.raises(BackendFailed, match=r"it took longer than 0.05 s; whether the batch is stored is not known"):
        log.commit()
    for act in (log.commit, log.sync, lambda: log.append(batch(0, {"n": 0}))):
        with pytest.raises(StreamReadOnly, match="longer than"):
            act()
    assert not log.unsynced


def test_the_constructor_gets_what_it_takes(place: BucketPlace, tmp_path: Path) -> None:
    """P10: backend_options and storage_path are for the class's constructor."""
    opened(Notebook, replace(place, options={"storage_path": str(tmp_path / "root"), "a": 1}))
    assert (tmp_path / "root" / "emails" / "bucket_3" / "calls").read_text() == "made 3 [('a', 1)]\n"
    with pytest.raises(InvalidSetting, match="Shoebox takes no storage_path"):
        opened(Shoebox, replace(place, options={"storage_path": "x"}))
    with pytest.raises(BackendFailed, match=r"Shoebox failed to open .*TypeError"):
        opened(Shoebox, replace(place, options={"colour": "red"}))


@pytest.mark.parametrize("answer", [None, [], [1], "text", [{"n": {1}}]])
def test_nonsense_from_the_class_is_told_and_nothing_is_read(place: BucketPlace, answer: Any) -> None:
    class Nonsense(Shoebox):
        async def get(self, offset: int, limit: int) -> Any:
            return [] if offset == 0 and not self._records else answer

    log = opened(Nonsense, place)
    log.append(batch(0, {"n": 0}))
    log.commit()
    with pytest.raises((BackendFailed, TypeError)):
        read(log)
    with pytest.raises(BackendFailed, match="counts -1 records"):
        opened(type("Miscounting", (Shoebox,), {"total_count": lambda self: -1}), place)


def test_a_fetched_reader_reads_what_was_asked_for(place: BucketPlace) -> None:
    log = opened(Notebook, place)
    log.append(batch(0, *({"n": n, "pad": "x" * 100} for n in range(50))))
    log.commit()

    def fetch(first: int, count: int, size: int) -> tuple[int, bytes]:
        future: Future[Any] = Future()
        log.fetch(first, count, size, lambda done: future.set_result(done))
        lines = future.result(5).result()
        return len(lines), b"".join(lines)

    reader = FetchedReader(fetch)
    assert reader.read(0, 10, 1000).count == 0
    reader.advance(End(50, 0, 50))
    reader.advance(End(7, 0, 7))
    taken = reader.read(10, 100, 1000)
    assert (taken.first, taken.publishers) == (10, [(taken.count, "")])
    assert 1 < taken.count < 9
    assert taken.size <= 1000
    assert orjson.loads(bytes(taken.parts[0]).split(b"\n")[0])["payload"]["n"] == 10
    assert reader.read(0, 10, 1).count == 1
    assert reader.read(49, 10, 9999).count == 1
    assert reader.stats().end_offset == 50
    with pytest.raises(InvalidSetting, match="have no times"):
        reader.find(1.0)
    reader.advance(End(90, 0, 90))  # more than there is
    taken = reader.read(50, 10, 1000)
    assert (taken.count, taken.parts) == (0, [])
    reader.close()
    with pytest.raises(InvalidSetting, match="For a sink use"):
        Adapted(Notebook).open_reader(place)

"""What was exported imports elsewhere: the same records, but for ids and times."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from dq import BrokerManager, Publisher, TaskIn
from dq.transfer.entry import Entries
from dq.transfer.export import Export
from dq.transfer.load import Import
from stage import Threaded, until

NUMBERS = itertools.count()
TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
HEADER = TEXT | st.sampled_from(["dq-import-id", "dq-import-before", "dq-id"])
RECORD = st.builds(
    TaskIn,
    payload=JSON | st.binary(max_size=8),
    key=st.none() | TEXT,
    topic=st.none() | st.sampled_from(["a", "b.c"]),
    name=TEXT,
    headers=st.none() | st.dictionaries(HEADER, TEXT, max_size=3),
    priority=st.integers(0, 2),
    expires=st.none() | st.floats(4_000, 1e6),
    once=st.none(),
    delay=st.sampled_from([None, None, None, 3_600.0]),
)
OURS = ("dq-import-id", "dq-import-time", "dq-import-uuid")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory) -> Iterator[BrokerManager]:
    """Another data directory."""
    with BrokerManager(tmp_path_factory.mktemp("dq") / "elsewhere") as other:
        yield other


def exported(root: Path, *streams: str, **options) -> list[bytes]:
    lines = bytearray()
    Export(root, streams).run("0", lines.extend, **options)
    return bytes(lines).splitlines(keepends=True)


def imported(broker: BrokerManager, lines: list[bytes], **options) -> Import:
    entries = Entries()
    done = Import(broker, entries, create=True, **options)
    assert done.check(entries.of(lines)) == len(lines) - 1
    done.run(entries.of(lines))
    return done


def told(line: bytes) -> dict:
    """What is to be the same: without ids and times, and with the headers that the user gave."""
    fields = orjson.loads(line)
    headers = fields.pop("headers", {})
    was_imported = "dq-import-uuid" in headers
    before = orjson.loads(headers.pop("dq-import-before", "{}")) if was_imported else {}
    kept = {name: text for name, text in headers.items() if name not in OURS or not was_imported}
    times = {name: fields.pop(name) for name in ("id", "at", "from", "due") if name in fields}
    return {**fields, "headers": {**kept, **before}, "delayed": times.get("due", 0) > time.time()}


def by_key(records: list[dict]) -> dict[str, list[dict]]:
    """In their order by key, which is kept; those without a key, in any."""
    found: dict[str, list[dict]] = {}
    for record in records:
        found.setdefault(f"{record.get('priority')} {record['delayed']} {record.get('key')!r}", []).append(record)
    for key in [key for key in found if key.endswith("None")]:
        found[key].sort(key=orjson.dumps)
    return found


@settings(max_examples=12, phases=[Phase.explicit, Phase.generate], suppress_health_check=[HealthCheck.too_slow])
@given(records=st.lists(RECORD, max_size=12), buckets=st.integers(1, 3))
def test_records_are_the_same_there(broker, elsewhere, records: list[TaskIn], buckets: int) -> None:
    # Given a stream with records of all kinds
    name = f"trip{next(NUMBERS)}"
    broker.stream(name, buckets=buckets, priorities=3)
    with Publisher(broker, name) as publisher:
        publisher.publish_many(records)
    # When it is exported, imported elsewhere, and exported there
    lines = exported(broker.root, name)
    done = imported(elsewhere, lines)
    again = exported(elsewhere.root, name) if records else lines
    # Then that is the same, but for ids and times
    assert len(lines) - 1 == len(records)
    assert sum(done.imported.values()) == len(records)
    assert by_key([told(line) for line in again[1:]]) == by_key([told(line) for line in lines[1:]])
    if records:
        assert elsewhere.stream(name).settings == broker.stream(name).settings
        # And an import done again stores nothing
        assert sum(imported(elsewhere, lines).imported.values()) == 0
        assert len(exported(elsewhere.root, name)) == len(lines)


def test_an_import_of_what_was_imported_remembers_where_it_came_from_first(broker, elsewhere, name) -> None:
    broker.publish(name, 1)
    first = exported(broker.root, name)
    imported(elsewhere, first)
    second = exported(elsewhere.root, name)
    before = orjson.loads(second[1])["headers"]
    [entry] = Entries().of(second)
    assert orjson.loads(entry.headers["dq-import-before"]) == before
    assert entry.headers["dq-import-uuid"] == orjson.loads(second[0])["streams"][0]["uuid"]


def test_each_record_is_there_once_also_of_those_that_come_to_their_stream_meanwhile(broker, name) -> None:
    # Given a publisher that goes on, whose delayed records are moved while this is exported
    broker.stream(name, buckets=2, priorities=2)
    count, stopped = [0], threading.Event()

    def publish() -> None:
        with Publisher(broker, name) as publisher:
            while not stopped.is_set():
                at = count[0]
                delays = [0.02 * (n % 3) if n % 2 else None for n in range(30)]
                publisher.publish_many(TaskIn(at + n, key=str(n), priority=n % 2, delay=delays[n]) for n in range(30))
                count[0] = at + 30

    publishing = Threaded(publish)
    try:
        for _ in range(4):
            published = until(lambda seen=count[0]: count[0] > seen and count[0])
            # When it is exported
            found = [orjson.loads(line)["payload"] for line in exported(broker.root, name)[1:]]
            # Then it has what was published before, once, and nothing twice
            assert len(found) == len(set(found))
            assert set(range(published)) <= set(found)
    finally:
        stopped.set()
        publishing.result()

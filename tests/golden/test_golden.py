"""T22: a data directory of every released format opens for ever, with exact records and exact sinks; a newer one is refused.

The directories were made once, by `make_golden.py`; a fault that makes one of these tests fail is a fault of dq.
"""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from make_golden import HELD, HERE, RECORDS

from dq import BrokerManager, Consumer, NewerFormat, Publisher, Task
from dq.log.format import FORMAT, SUFFIX_BYTES, seal
from stage import Threaded, sink_of, until

FORMATS = sorted(path for path in HERE.glob("format-*"))
VARIANTS = [(path, name) for path in FORMATS for name in ("clean", "killed")]
IDS = [f"{path.name} {name}" for path, name in VARIANTS]
# Leases that were found at the start are kept for 5 s for their consumers; on a busy machine all of it takes longer.
SECONDS = 30.0


def copy_of(source: Path, target: Path) -> Path:
    """A copy that can be served: git keeps no modes, and a copy has the newest times."""
    shutil.copytree(source, target)
    for path in (target, *target.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return target


def take(broker: BrokerManager, sink: str, stream: str, count: int) -> list[Task]:
    """So many tasks, none of them settled before all are there."""
    with Consumer(broker, stream, sink=sink, prefetch=1_000, idle_timeout=SECONDS) as consumer:
        tasks = []
        for task in consumer:
            task.extend(600)
            tasks.append(task)
            if len(tasks) == count:
                break
        for task in tasks:
            task.ack()
        consumer.flush()
    return tasks


class Golden:
    """A copy of a golden directory that is served."""

    def __init__(self, source: Path, name: str, target: Path) -> None:
        self.expected: dict[str, Any] = orjson.loads((source / "expected.json").read_bytes())[name]
        self.source, self.root = source / name, copy_of(source / name, target)
        self.broker = BrokerManager(self.root)
        self.at_start = {sink: until(lambda sink=sink: sink_of(self.broker, sink)) for sink in ("mailers", "auditors")}
        # All that waits for a time, or for a consumer that will not come back, waits at once.
        became, records = self.expected["became"], self.expected["records"]
        self.ended = {*became["acked"], *became["dropped"], *became["dead"]}
        self.mails = {id for id in records if id.startswith("emails/")} - self.ended - {*became["delayed"]}
        self.orders = {id for id in records if id.startswith("orders/")} - {*self.expected["orders_settled"]}
        self._taking = {
            "mailers": Threaded(lambda: take(self.broker, "mailers", "emails", len(self.mails))),
            "auditors": Threaded(lambda: take(self.broker, "auditors", "orders", len(self.orders))),
            "reread emails": Threaded(lambda: take(self.broker, "reread1", "emails", RECORDS)),
            "reread orders": Threaded(lambda: take(self.broker, "reread2", "orders", RECORDS)),
            "reread dead": Threaded(lambda: take(self.broker, "reread3", "emails-dlq", len(became["dead"]))),
        }

    def taken(self, what: str) -> list[Task]:
        """What a sink got."""
        return self._taking[what].result(2 * SECONDS)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Golden]]:
    """All golden directories, each with a broker of its own, at the same time: most of it is waiting."""
    place = tmp_path_factory.mktemp("golden")
    opened: dict[str, Golden] = {}
    try:
        for number, (source, name) in enumerate(VARIANTS):
            opened[IDS[number]] = Golden(source, name, place / str(number))
        yield opened
    finally:
        for golden in opened.values():
            golden.broker.stop()


@pytest.fixture(params=IDS)
def golden(request: pytest.FixtureRequest, served: dict[str, Golden]) -> Golden:
    return served[request.param]


def lines_of(root: Path, stream: str) -> dict[str, dict[str, Any]]:
    """The records of a stream by their ids, read from its files by nobody's code but this."""
    found = {}
    for bucket in sorted((root / "streams" / stream).glob("[0-9]")):
        offset = 0
        for path in sorted(bucket.glob("*.jsonl")):
            for line in path.read_bytes().split(b"\n"):
                if line.startswith(
                    (b'{"at":', b'{"key":', b'{"payload":', b'{"base64":', b'{"name":', b'{"topic":', b'{"headers":')
                ):
                    found[f"{stream}/{bucket.name}/{offset}"] = orjson.loads(line)
                    offset += 1
    return found


def payload_in(expected: dict[str, Any]) -> Any:
    payload = expected["payload"]
    return base64.b64decode(payload["base64"]) if "base64" in payload else payload["json"]


def test_there_is_a_golden_directory_of_this_format() -> None:
    """T22: each format that is released has one, made before the release."""
    assert [path.name for path in FORMATS] == [f"format-{number}" for number in range(1, FORMAT + 1)]
    for path in FORMATS:
        assert sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) < 200 * 1024


@pytest.mark.parametrize("stream", ["emails", "orders"])
def test_every_record_is_read_as_it_was_published(golden: Golden, stream: str) -> None:
    """T22: its place, payload, key, topic, name, headers and time."""
    stored = lines_of(golden.source, stream)
    tasks = golden.taken(f"reread {stream}")
    assert {task.id for task in tasks} == {id for id in golden.expected["records"] if id.startswith(f"{stream}/")}
    for task in tasks:
        expected = golden.expected["records"][task.id]
        assert task.payload == payload_in(expected), task.id
        assert type(task.payload) is type(payload_in(expected))
        assert (task.key, task.topic, task.name) == (expected["key"], expected["topic"], expected["name"])
        assert dict(task.headers) == expected["headers"]
        assert task.created_at == datetime.fromtimestamp(stored[task.id]["at"], UTC)
        assert task.attempt == 1


def test_dead_letters_are_all_there_once(golden: Golden) -> None:
    """T22: with their past in their headers."""
    tasks = golden.taken("reread dead")
    assert sorted(task.headers["dq-id"] for task in tasks) == sorted(golden.expected["became"]["dead"])
    for task in tasks:
        expected = golden.expected["records"][task.headers["dq-id"]]
        assert task.payload == payload_in(expected)
        assert task.headers["dq-reason"] == "no such address"
        assert task.headers["dq-sink"] == "mailers"


def test_the_sinks_are_where_they_were(golden: Golden) -> None:
    """T22: what was settled is, what was given up is, and what waits for its time does."""
    became, mailers = golden.expected["became"], golden.at_start["mailers"]
    assert mailers["settled"] == len(golden.ended)
    assert mailers["dropped"] == len(became["dropped"])
    assert mailers["dead_lettered"] == len(became["dead"])
    assert mailers["retried"] == len(became["delayed"]) + len(became["failed"])
    assert mailers["shards"]["emails/0"]["delayed"] >= len(became["delayed"])
    assert mailers["notes_unknown"] == 0
    assert mailers["settings"]["max_attempts"] == 5
    if golden.source.name == "killed":
        assert mailers["shards"]["emails/0"]["in_hand"] == HELD
    assert golden.at_start["auditors"]["settled"] == len(golden.expected["orders_settled"])


def test_what_is_left_is_delivered_once_with_its_attempts(golden: Golden) -> None:
    """T22: the failed ones with what they failed of; those of before, never again; the delayed ones later."""
    became, tasks = golden.expected["became"], golden.taken("mailers")
    assert sorted(task.id for task in tasks) == sorted(golden.mails)
    for task in tasks:
        failed = task.id in became["failed"]
        assert task.attempt == (2 if failed else 1) or task.id == golden.expected["held"]
        assert not failed or task.last_error == "ValueError: boom"
    assert sorted(task.id for task in golden.taken("auditors")) == sorted(golden.orders)
    shard = sink_of(golden.broker, "mailers")["shards"]["emails/0"]
    assert (shard["delayed"], shard["waiting"], shard["in_hand"]) == (len(became["delayed"]), 0, 0)


def test_it_takes_records_behind_what_it_has(golden: Golden) -> None:
    """T22: the log goes on where it ended."""
    golden.taken("reread emails")
    golden.taken("mailers")
    with Publisher(golden.broker, "emails") as publisher:
        assert publisher.publish({"n": RECORDS}).id == f"emails/0/{RECORDS}"


def test_a_torn_tail_is_kept_beside_those_of_before(golden: Golden) -> None:
    """T22: nothing is ever taken out of quarantine."""
    before = {path.name: path.read_bytes() for path in (golden.source / "quarantine").iterdir()}
    now = {path.name: path.read_bytes() for path in (golden.root / "quarantine").iterdir()}
    assert before.items() <= now.items()
    new = [content for name, content in now.items() if name not in before]
    assert new == ([] if golden.source.name == "clean" else [b'{"batch":60,"count":2,"bytes":410,"at":17'])


# --- newer ---------------------------------------------------------------------------------------------------------------
def raise_format(path: Path) -> None:
    """The first line of a file as a newer dq would write it, under a right checksum if it has one."""
    line, rest = path.read_bytes().split(b"\n", 1)
    fields = orjson.loads(line)
    newer = line.replace(b'"format":%d' % fields["format"], b'"format":%d' % (fields["format"] + 1)) + b"\n"
    assert newer != line + b"\n"
    path.write_bytes((seal(newer[:-SUFFIX_BYTES])[0] if "crc" in fields else newer) + rest)


def bytes_of(root: Path) -> dict[str, bytes]:
    """All that belongs to the data; the mark of a clean stop is a hint, and locks are no data."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name not in ("clean.json", "reserve") and not path.name.endswith((".lock", ".pid"))
    }


@pytest.mark.parametrize("source", FORMATS, ids=lambda path: path.name)
def test_a_directory_of_a_newer_dq_is_refused_by_name(tmp_path: Path, source: Path) -> None:
    """T22, R7, bad input 17: nothing starts, and no byte is changed."""
    root = copy_of(source / "clean", tmp_path / "queue_data")
    raise_format(root / "dq.json")
    before = bytes_of(root)
    mark = (root / "streams" / "clean.json").read_bytes()
    with pytest.raises(NewerFormat, match=str(root)):
        BrokerManager(root).stop()
    assert bytes_of(root) == before
    assert (root / "streams" / "clean.json").read_bytes() == mark


@pytest.mark.parametrize("source", FORMATS, ids=lambda path: path.name)
def test_streams_and_sinks_of_a_newer_dq_are_refused_by_name_and_others_serve(tmp_path: Path, source: Path) -> None:
    """T22, R7, R4, bad input 17: the description of a stream, a segment of another one, the settings of a sink, the log of
    another one. A newer dq leaves a mark of a newer format, so it is as if there were none."""
    root = copy_of(source / "clean", tmp_path / "queue_data")
    (root / "streams" / "clean.json").unlink()
    newer = {
        "orders": root / "streams" / "orders" / "stream.json",
        "emails": max((root / "streams" / "emails" / "0").glob("*.jsonl")),
        "mailers": root / "sinks" / "mailers" / "sink.json",
        "auditors": max((root / "sinks" / "auditors").glob("*.jsonl")),
    }
    for path in newer.values():
        raise_format(path)
    before = {name: content for name, content in bytes_of(root).items() if "-dlq" not in name}
    with BrokerManager(root) as broker:
        for stream in ("orders", "emails"):
            with pytest.raises(NewerFormat, match=str(newer[stream])):
                broker.publish(stream, 1)
        assert broker.publish("others", 1).id == "others/0/0"
        for sink in ("mailers", "auditors"):
            with pytest.raises(NewerFormat, match=str(newer[sink])):
                Consumer(broker, "others", sink=sink)
        assert [task.id for task in take(broker, "new", "others", 1)] == ["others/0/0"]
    assert before.items() <= bytes_of(root).items()

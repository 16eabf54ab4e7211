"""P10 with real processes: a backend of the user's own, imported by the brokers from where the script has it."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import own_backends
import pytest
from own_backends import ClumsyBackend, ElsewhereBackend, Notebook, Shoebox

import dq
from dq import BackendFailed, BrokerManager, Consumer, InvalidPayload, InvalidSetting, Publisher, StreamReadOnly
from dq.mend.verify import verify
from stage import Child, kill, pids, until


def put(broker: dq.Broker, stream: str, *payloads: object) -> None:
    with Publisher(broker, stream, create=False) as publisher:
        publisher.publish_many(payloads)


def taken(broker: dq.Broker, stream: str, sink: str, count: int) -> list[object]:
    found = []
    with Consumer(broker, stream, sink=sink) as consumer:
        for task in consumer:
            with task:
                found.append(task.payload)
            if len(found) == count:
                return found
    return found


def test_a_stream_is_kept_by_a_class_of_the_users_own(broker: BrokerManager, name: str, tmp_path: Path) -> None:
    """P10: a custom backend really is called, in both brokers, and its options are kept with the stream."""
    dq.register_backend("elsewhere", ElsewhereBackend)
    broker.stream(name, buckets=2, backend="elsewhere", backend_options={"place": str(tmp_path / "place")})
    put(broker, name, *range(100))
    assert sorted(taken(broker, name, f"{name}-s", 100)) == list(range(100))
    assert {path.parent.name for path in (tmp_path / "place" / name).rglob("*.jsonl")} <= {"0", "1"}
    assert not list((broker.root / "streams" / name).rglob("*.jsonl"))
    broker.stream(name, backend=ElsewhereBackend)
    with pytest.raises(dq.SettingsMismatch, match="backend_options"):
        broker.stream(name, backend_options={"place": "other"})
    assert {log.state for log in verify(broker.root).logs if log.log == f"streams/{name}"} == {"kept by its class"}


def test_an_error_of_the_class_refuses_the_batch_and_the_broker_lives(broker: BrokerManager, name: str, tmp_path: Path) -> None:
    """P10: errors inside the user's class."""
    before = pids(broker)
    with pytest.raises(BackendFailed, match="it cannot be opened"):
        broker.stream(name, backend=ClumsyBackend, backend_options={"refuses": True})
    broker.stream(name, backend=ClumsyBackend, backend_options={"place": str(tmp_path)})  # nothing was made before
    with Publisher(broker, name) as publisher:
        with pytest.raises(BackendFailed, match=r"KeyError.*refuse me"):
            publisher.publish("refuse me")
        assert publisher.publish("well").id == f"{name}/0/0"
        with pytest.raises(BackendFailed, match="it broke"):
            publisher.publish("break")
        with pytest.raises(StreamReadOnly, match="it broke"):
            publisher.publish("well")
    assert pids(broker) == before


@pytest.mark.parametrize("cls", [Notebook, Shoebox])
def test_a_class_in_the_other_form_is_called_at_commits_and_flushes(
    broker: BrokerManager, name: str, cls: type, tmp_path: Path
) -> None:
    """P10: put or put_batch at the commit, flush within sync_seconds; the receipt says that it is the class's own."""
    options = {"storage_path": str(tmp_path)} if cls is Notebook else {}
    broker.stream(name, backend=cls, backend_options=options, sync_seconds=0.05)
    with Publisher(broker, name) as publisher:
        assert publisher.publish({"n": 0}).durability == "backend"
        with pytest.raises(BackendFailed, match=rf"{cls.__name__} failed to store a batch .*ValueError: a bad record; nothing"):
            publisher.publish({"bad": True})
        with pytest.raises(InvalidPayload, match="publish a dict"):
            publisher.publish("text")
        assert publisher.publish({"n": 1}, key="k").id == f"{name}/0/1"
    if cls is Notebook:
        kept = tmp_path / name / "bucket_0"
        assert [json.loads(line) for line in (kept / "records.jsonl").read_text().splitlines()] == [{"n": 0}, {"n": 1}]
        until(lambda: "flush" in (kept / "calls").read_text().splitlines(), what="the class was asked to flush")


def test_readers_of_a_class_in_the_other_form_outlive_its_broker(tmp_path: Path) -> None:
    """P10: what the class has kept is counted by the next broker, and readers go on there."""
    with BrokerManager(tmp_path / "data") as broker:
        broker.stream("notes", backend=Notebook, buckets=2)
        put(broker, "notes", *({"n": n} for n in range(50)))
        with broker.reader("notes", start="oldest") as reader:
            assert len(reader.get(20)) == 20
            kill(pids(broker)[0])
            put(broker, "notes", *({"n": n} for n in range(50, 100)))
            found = {record.payload["n"]: record for record in reader.get(20)}
            while len(found) < 80:
                found |= {record.payload["n"]: record for record in reader.get(50, timeout=10)}
            some = next(iter(found.values()))
            assert (some.key, some.topic, some.headers, some.created_at.year) == (None, None, {}, 1970)
            reader.reset()
            records = reader.get(50, timeout=10)
            while len(records) < 100:
                records += reader.get(50, timeout=10)
            assert sorted(record.payload["n"] for record in records) == list(range(100))
            assert reader.get(50, timeout=0.1) == []
        with pytest.raises(InvalidSetting, match=r"start the broker|have no times"):
            broker.reader("notes", start=timedelta(hours=1))
    with pytest.raises(InvalidSetting, match="read through the broker: start it"):
        dq.Reader(tmp_path / "data", "notes", start="oldest")


def test_what_a_class_forgets_with_its_broker_is_counted_as_lost(tmp_path: Path) -> None:
    """P10: its durability is its own; a reader that was ahead of what is there now goes back, and counts."""
    with BrokerManager(tmp_path / "data") as broker:
        broker.stream("box", backend=Shoebox)
        put(broker, "box", *({"n": n} for n in range(3_000)))
        with broker.reader("box", start="oldest") as reader:
            read = len(reader.get(4))
            killed = pids(broker)[0]
            kill(killed)
            while found := reader.get(100):  # what it had fetched ahead
                read += len(found)
            assert 4 <= read < 3_000
            until(lambda: pids(broker)[0] != killed)
            put(broker, "box", {"n": "new"})
            assert [record.payload["n"] for record in reader.get(4, timeout=10)] == ["new"]
            assert reader.lost == read


def test_no_sink_can_be_over_a_class_in_the_other_form(broker: BrokerManager, name: str) -> None:
    """P10: refused in words, before the sink is made."""
    broker.stream(name, backend=Shoebox)
    with pytest.raises(InvalidSetting, match=r"Shoebox has put, get and flush.*For a sink use backend=\"json\""):
        Consumer(broker, name, sink=f"{name}-s")
    assert not (broker.root / "sinks" / f"{name}-s").exists()


def test_a_class_of_the_script_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    """P10: one defined in __main__ is refused with that reason."""
    code = """
        import dq
        class Mine:
            async def put(self, record): ...
            async def get(self, offset, limit): ...
            async def flush(self): ...
        with dq.BrokerManager(sys.argv[1]) as broker:
            try:
                broker.stream("emails", backend=Mine)
            except dq.InvalidSetting as error:
                say(str(error), os.listdir(sys.argv[1] + "/streams"))
    """
    with Child(textwrap.dedent(code), tmp_path / "data") as child:
        error, streams = child.hear()
        assert "defined in __main__" in error
        assert "emails" not in streams


@pytest.fixture
def script_directory(tmp_path: Path) -> Iterator[Path]:
    """A script's own directory, that no other process has on its path."""
    directory = tmp_path / "script"
    directory.mkdir(mode=0o700)
    source = Path(own_backends.__file__)
    shutil.copy(source, directory / "their_backends.py")
    return directory


def test_the_broker_finds_the_class_of_a_script_that_attaches_to_it(script_directory: Path, tmp_path: Path) -> None:
    """P10: it travels with the directory that the script imported it from, also across a restart of the brokers."""
    code = """
        sys.path.insert(0, sys.argv[2])
        import dq, their_backends
        broker = dq.connect(sys.argv[1])
        broker.stream("emails", backend=their_backends.ElsewhereBackend)
        with dq.Publisher(broker, "emails") as publisher:
            publisher.publish(1)
        say("published")
    """
    with BrokerManager(tmp_path / "data") as broker:
        with Child(textwrap.dedent(code), broker.root, script_directory) as child:
            assert child.hear() == "published"
        assert taken(broker, "emails", "s", 1) == [1]
        for pid in pids(broker):
            kill(pid)
        put(broker, "emails", 2)
        assert taken(broker, "emails", "s", 1) == [2]
    kept = json.loads((tmp_path / "data" / "streams" / "emails" / "stream.json").read_text())["settings"]
    assert kept["backend"] == "their_backends:ElsewhereBackend"
    assert kept["backend_path"] == str(script_directory)
    # When the module is gone, that stream alone is closed, with the reason
    (script_directory / "their_backends.py").unlink()
    with BrokerManager(tmp_path / "data") as broker:
        with pytest.raises(dq.LogError, match=r"their_backends.* cannot be imported .*ModuleNotFoundError"):
            Publisher(broker, "emails", create=False)
        with pytest.raises(dq.LogError, match="their_backends"):
            Consumer(broker, "emails", sink="s")
        broker.publish("others", 1)
        assert taken(broker, "others", "others", 1) == [1]
        assert [log.state for log in verify(broker.root).logs if log.log == "streams/emails"] == ["unreadable"]

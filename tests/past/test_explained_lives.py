"""`dq.history` over the logs that real brokers wrote: a life with everything in it, and logs that are cut, torn or damaged."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest

import dq.aio
from dq import (
    BrokerManager,
    Consumer,
    Damaged,
    InvalidSetting,
    LogError,
    NewerFormat,
    Publisher,
    RecordsTrimmed,
    UnknownRecord,
    UnknownSink,
    UnknownStream,
)
from dq.core.sink import SinkCore
from dq.history import History, Kind, StreamThen, biography, explain, mermaid, state_at
from dq.history.diagram import escaped
from dq.log.files import Files
from dq.log.layout import Layout
from dq.log.sink_log import SinkLog
from dq.model.settings import SinkSettings
from stage import Child, settled, sink_of, until

DIES = """
import dq
with dq.connect(sys.argv[1]) as broker, dq.Consumer(broker, sys.argv[2], sink=sys.argv[3], prefetch=1) as consumer:
    for task in consumer:
        task.extend(60)
        consumer.flush()
        say(os.getpid())
        heard()
"""


def told(history: History) -> list[tuple[str, str]]:
    """What happened, and to which of the records that it has been."""
    return [(event.kind.value, event.record) for event in history.events]


def lives(broker: BrokerManager, stream: str) -> int:
    """A record that kills its consumer, fails, is given up, replayed and acked. Returns the pid of the consumer that died."""
    broker.sink("mailers", stream, max_attempts=2)
    with Publisher(broker, stream) as publisher:
        publisher.publish({"to": "ada"}, key="ada", topic="hi")
    with Child(DIES, broker.root, stream, "mailers") as child:
        pid = child.hear()
        child.kill()
    with Consumer(broker, stream, sink="mailers") as consumer:
        next(iter(consumer)).retry()
        consumer.flush()
        until(lambda: broker.dlq(stream).count() == 1)
        broker.dlq(stream).replay()
        next(iter(consumer)).ack(wait=True)
    return pid


@pytest.fixture(scope="module")
def lived(broker) -> Iterator[tuple[BrokerManager, int]]:
    return broker, lives(broker, "orders")


def test_a_life_is_told_from_its_publication_to_its_ack(lived) -> None:
    # Given a record that went through everything, and a broker that runs
    broker, pid = lived
    # When its biography is asked for
    found = broker.explain("orders/0/0")
    # Then each step is told, of the record that it was by then
    assert told(found) == [
        ("published", "orders/0/0"),
        ("leased", "orders/0/0"),
        ("extended", "orders/0/0"),
        ("lost", "orders/0/0"),
        ("leased", "orders/0/0"),
        ("given up", "orders/0/0"),
        ("dead letter", "orders-dlq/0/0"),
        ("replayed", "orders/0/1"),
        ("leased", "orders/0/1"),
        ("acked", "orders/0/1"),
    ]
    by_kind = {event.kind: event for event in found.events}
    assert by_kind[Kind.EXTENDED].seconds == 60
    lost, given_up = by_kind[Kind.LOST], by_kind[Kind.GIVEN_UP]
    assert (lost.pid, lost.error, lost.attempt) == (pid, "consumer died", 1)
    assert (given_up.reason, given_up.attempt, given_up.other) == ("max_attempts", 2, "orders-dlq/0/0")
    assert [event.attempt for event in found.events if event.kind is Kind.LEASED] == [1, 2, 1]
    # And when, in order, and who published it
    times = [event.at for event in found.events]
    assert [round(at, 3) for at in times] == sorted(round(at, 3) for at in times)
    first = found.records[0]
    assert (first.key, first.topic, first.kept) == ("ada", "hi", True)
    assert first.publisher.startswith("p-")
    assert 0 <= first.committed_at - first.published_at + 0.001 < 5
    assert found.payload == {"to": "ada"}
    # And how it stands now
    assert [(state.record, state.state, state.other) for state in found.states] == [
        ("orders/0/0", "settled", "orders-dlq/0/0"),
        ("orders-dlq/0/0", "replayed", "orders/0/1"),
        ("orders/0/1", "settled", ""),
    ]
    assert found.states[-1].by is Kind.ACKED
    assert found.gaps == ()


def test_any_record_that_it_has_been_tells_the_same(lived) -> None:
    broker, _ = lived
    events = explain(broker.root, "orders/0/0").events
    for other in ("orders-dlq/0/0", "orders/0/1"):
        found = explain(broker.root, other)
        assert (found.id, found.events) == (other, events)


def test_the_asyncio_face_tells_the_same(lived) -> None:
    broker, _ = lived

    async def told_by_it() -> tuple[History, StreamThen]:
        async with dq.aio.connect(broker.root) as other:
            return await other.explain("orders/0/0"), await other.at("orders", "orders/0/1")

    assert asyncio.run(told_by_it()) == (broker.explain("orders/0/0"), broker.at("orders", "orders/0/1"))


def test_a_sink_that_a_replay_is_not_for_is_not_in_its_biography(lived) -> None:
    broker, _ = lived
    with Consumer(broker, "orders", sink="auditors", idle_timeout=0.2) as consumer:
        assert [task.ack() or task.id for task in consumer] == ["orders/0/0"]
    assert {(event.sink, event.record) for event in explain(broker.root, "orders/0/0", sink="auditors").events} == {
        ("", "orders/0/0"), ("auditors", "orders/0/0"), ("mailers", "orders-dlq/0/0"), ("mailers", "orders/0/1"),
    }  # fmt: skip


def test_delays_are_told_and_late_retries(broker, name) -> None:
    # Given a record that comes later, and one whose retry is far
    with Publisher(broker, name) as publisher:
        publisher.publish(1, delay=0.05)
    with Consumer(broker, name, sink=f"{name}-w") as consumer:
        next(iter(consumer)).retry(after=3_600)
        consumer.flush()
    until(lambda: sink_of(broker, f"{name}-w")["shards"][f"{name}/0"]["dying"] == 0)
    # Then the first one's id tells all of it
    found = broker.explain(f"{name}-later/0/0")
    assert told(found) == [
        ("delayed", f"{name}-later/0/0"),
        ("came", f"{name}/0/0"),
        ("leased", f"{name}/0/0"),
        ("put off", f"{name}/0/0"),
        ("waits", f"{name}-later/0/1"),
    ]
    assert 0 < found.events[0].seconds <= 0.05
    assert found.events[3].seconds == pytest.approx(3_600, abs=1)
    last = found.states[-1]
    assert (last.sink, last.record, last.state) == (f"{name}-w", f"{name}-later/0/1", "delayed")
    assert last.until == pytest.approx(found.events[3].at + 3_600, abs=1)


def test_what_was_discarded_and_what_was_taken_out_says_so(broker, name) -> None:
    stream = broker.stream(name)
    with Publisher(broker, name) as publisher:
        publisher.publish_many([1, 2])
    with Consumer(broker, name, sink=f"{name}-w", prefetch=1) as consumer:
        next(iter(consumer)).dead_letter("no use")
        consumer.flush()
        until(lambda: broker.dlq(name).count() == 1)
        broker.dlq(name).discard()
        next(iter(consumer)).release()
        consumer.flush()
        stream.remove(f"{name}/0/1")
    found = explain(broker.root, f"{name}/0/0")
    assert told(found)[-2:] == [("dead letter", f"{name}-dlq/0/0"), ("removed", f"{name}-dlq/0/0")]
    assert found.states[-1].state == "removed"
    assert "removed" in dict.fromkeys(kind for kind, _ in told(explain(broker.root, f"{name}/0/1")))


def test_a_moment_shows_what_stood_where(broker, name) -> None:
    # Given three records, of which one is done, one in a hand and one waiting
    before = datetime.now(UTC)
    with Publisher(broker, name) as publisher:
        publisher.publish_many([1, 2, 3])
    with Consumer(broker, name, sink=f"{name}-w", prefetch=1) as consumer:
        tasks = iter(consumer)
        next(tasks).ack(wait=True)
        held = next(tasks)
        then = datetime.now(UTC)
        held.ack(wait=True)
        next(tasks).ack(wait=True)
    # When all of it is over, that moment is asked for
    found = broker.at(name, then)
    [sink] = found.sinks
    assert (found.buckets[0].first, found.buckets[0].end) == (0, 3)
    assert (sink.settled, sink.in_hand, sink.waiting) == (1, 1, 1)
    assert sink.held[0].ranges == ((1, 2),)
    assert sink.held[0].pid > 0
    # And the one before, and now, and the one of a record
    assert broker.at(name, before).buckets[0].end == 0
    assert [f"sink {name}-w: it began at" in gap for gap in broker.at(name, before, sink=f"{name}-w").gaps] == [True]
    assert broker.at(name, timedelta()).sinks[0].settled == 3
    assert broker.at(name, 0).buckets[0].end == broker.at(name, f"{name}/0/0").buckets[0].end >= 1


@pytest.mark.parametrize(
    ("what", "error"),
    [
        (lambda root: explain(root, "orders"), InvalidSetting),
        (lambda root: explain(root, "newest"), InvalidSetting),
        (lambda root: explain(root, "orders/0/999"), UnknownRecord),
        (lambda root: explain(root, "orders/7/0"), UnknownRecord),
        (lambda root: explain(root, "none/0/0"), UnknownStream),
        (lambda root: explain(root / "none", "orders/0/0"), UnknownStream),
        (lambda root: explain(root, "orders/0/0", sink="none"), UnknownSink),
        (lambda root: state_at(root, "none", 0), UnknownStream),
        (lambda root: state_at(root, "orders", 999), UnknownRecord),
        (lambda root: state_at(root, "orders", "others/0/0"), InvalidSetting),
        (lambda root: state_at(root, "orders", datetime(2026, 1, 1)), InvalidSetting),
        (lambda root: state_at(root, "orders", timedelta(-1)), InvalidSetting),
        (lambda root: state_at(root, "orders", True), InvalidSetting),
        (lambda root: state_at(root, "orders", 0, sink="none"), UnknownSink),
    ],
)
def test_what_is_not_there_is_refused_by_name(lived, what, error) -> None:
    with pytest.raises(error):
        what(lived[0].root)


def test_the_example_of_the_page_runs(lived, monkeypatch, capsys) -> None:
    page = (Path(__file__).parents[2] / "docs" / "history.md").read_text()
    [example] = re.findall(r"```python\n(.*?)```", page, re.S)
    monkeypatch.chdir(lived[0].root.parent)
    exec(compile(example, "history.md", "exec"), {})
    shown = capsys.readouterr().out.splitlines()
    assert [" ".join(line.split()[:2]) for line in shown] == [
        "published parcels/0/0", "leased parcels/0/0", "acked parcels/0/0", "settled", "sequenceDiagram", shown[5],
    ]  # fmt: skip
    assert shown[5] in ("1 []", "1 [0]")  # whether the sink was made before the record was committed is open


# --- logs that are cut, torn, damaged: copies of what the broker wrote -------------------------------------------------------
@pytest.fixture
def copied(lived, tmp_path) -> Path:
    """A copy of the directory, while its broker runs."""
    assert settled(lived[0], "mailers", 2)
    root = tmp_path / "queue_data"
    shutil.copytree(lived[0].root, root, ignore=shutil.ignore_patterns("*.sock"))
    return root


def segment_of(directory: Path) -> Path:
    return max(directory.glob("*.jsonl"))


def test_where_a_segment_goes_while_it_is_read_all_is_looked_at_once_more(copied, monkeypatch) -> None:
    # Given a broker that deletes one, now and then, or again and again
    real, gone = biography.lineage, [RecordsTrimmed("gone")] * 2

    def trimmed(*arguments):
        if gone:
            raise gone.pop()
        return real(*arguments)

    monkeypatch.setattr(biography, "lineage", trimmed)
    whole = explain(copied, "orders/0/0")
    assert len(whole.records) == 3
    gone += [RecordsTrimmed("gone")] * 99
    with pytest.raises(LogError, match="try again"):
        explain(copied, "orders/0/0")


def test_without_a_broker_the_same_is_told_and_nothing_is_changed(lived, copied) -> None:
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    assert explain(copied, "orders/0/0", sink="mailers") == explain(lived[0].root, "orders/0/0", sink="mailers")
    assert {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()} == before


def test_a_torn_end_is_no_error(copied) -> None:
    whole = explain(copied, "orders/0/0")
    for directory in (Layout(copied).sink("mailers"), Layout(copied).bucket("orders", 0)):
        with segment_of(directory).open("ab") as file:
            file.write(b'{"batch":999,"count":2,"bytes":410,"at":17')
    assert explain(copied, "orders/0/0") == whole


@pytest.mark.parametrize("log", ["sinks/mailers", "streams/orders/0"])
def test_damage_is_named_with_file_and_byte(copied, log) -> None:
    path = segment_of(copied / log)
    content = bytearray(path.read_bytes())
    content[content.index(b'"at"', content.index(b'"batch"') + 100)] ^= 1
    path.write_bytes(content)
    with pytest.raises(Damaged, match=rf"{path}.*byte \d+"):
        explain(copied, "orders/0/0")
    with pytest.raises(Damaged, match=rf"{path}.*byte \d+"):
        state_at(copied, "orders", timedelta())


def test_a_note_that_does_not_fit_is_damage_of_its_log(copied) -> None:
    log, _ = SinkLog.open(Files(), Layout(copied).sink("mailers"), "mailers")
    log.append([b'{"ack":1,"stream":"none","bucket":0,"ranges":[[0,1]]}\n'])
    log.write()
    log.close()
    with pytest.raises(Damaged, match="sinks/mailers"):
        explain(copied, "orders/0/0")
    with pytest.raises(Damaged, match="sinks/mailers"):
        state_at(copied, "orders", timedelta())


def test_a_newer_log_is_refused_by_name(copied) -> None:
    path = segment_of(Layout(copied).sink("mailers"))
    path.write_bytes(path.read_bytes().replace(b'"format":1', b'"format":2', 1))
    with pytest.raises(NewerFormat, match=str(path)):
        explain(copied, "orders/0/0")


def test_what_a_rolled_log_does_not_keep_is_said(copied) -> None:
    # Given a log of the sink that has begun anew since
    before = datetime.now(UTC)
    log, notes = SinkLog.open(Files(), Layout(copied).sink("mailers"), "mailers")
    core = SinkCore("mailers", SinkSettings())
    for note in notes:
        core.replay(note)
    core.wall = before.timestamp() + 1
    log.roll(core.snapshot())
    log.close()
    # Then what is left is told, and from when on
    found = explain(copied, "orders/0/0", sink="mailers")
    assert [kind for kind, _ in told(found)] == ["published", "dead letter", "replayed", "kept", "kept"]
    assert len(found.gaps) == 1
    assert "is not kept" in found.gaps[0]
    assert "what was before" in state_at(copied, "orders", before, sink="mailers").gaps[0]
    assert state_at(copied, "orders", timedelta(), sink="mailers").gaps != ()  # the snapshot lies a second ahead


def test_a_last_batch_that_is_damaged_is_not_taken_for_one_that_never_was(copied) -> None:
    path = segment_of(Layout(copied).bucket("orders", 0))
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    with pytest.raises(Damaged, match=str(path)):
        explain(copied, "orders/0/1")


def test_a_record_that_was_trimmed_is_told_as_far_as_the_sink_knows(broker, name) -> None:
    with Publisher(broker, name) as publisher:
        publisher.publish_many([1, 2])
    with Consumer(broker, name, sink=f"{name}-w", idle_timeout=0.1) as consumer:
        for task in consumer:
            task.ack()
    broker.stream(name).trim("newest")
    found = explain(broker.root, f"{name}/0/0")
    assert told(found) == [("leased", f"{name}/0/0"), ("acked", f"{name}/0/0")]
    assert found.payload is None
    assert found.gaps == (f"{name}/0/0: it is not kept any more; its bucket begins at offset 2",)


@pytest.mark.parametrize("directory", ["clean", "killed"])
def test_what_an_older_version_wrote_is_told_as_well(tmp_path, directory) -> None:
    source = Path(__file__).parents[1] / "golden" / "format-1"
    became = orjson.loads((source / "expected.json").read_bytes())[directory]["became"]
    root = tmp_path / "queue_data"
    shutil.copytree(source / directory, root)
    for path in (root, *root.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    for kind, last, state in (
        ("acked", "acked", "settled"),
        ("dropped", "dropped", "settled"),
        ("delayed", "failed", "delayed"),  # for years
        ("failed", "failed", "waiting"),  # for a second, which is over
        ("dead", "dead letter", "settled"),
    ):
        found = explain(root, became[kind][0])
        assert told(found)[0][0] == "published"
        assert told(found)[-1][0] == last
        assert found.states[0].state == state
    then = state_at(root, "emails", timedelta(), sink="mailers").sinks[0]
    assert (then.settled, then.in_hand, then.delayed) == (32, 3, 4)
    assert then.held[0].pid == 0  # it was not noted then


# --- diagrams ----------------------------------------------------------------------------------------------------------------
def test_a_diagram_has_everybody_who_had_a_part_in_it(lived) -> None:
    drawn = mermaid(explain(lived[0].root, "orders/0/0", sink="mailers")).splitlines()
    assert drawn[0] == "sequenceDiagram"
    labels = [line.partition(" as ")[2] for line in drawn if line.startswith("    participant ")]
    assert [label.split()[0] for label in labels].count("Consumer") == 2
    for label in ("PublisherBroker", "stream orders", "sink mailers", "stream orders-dlq"):
        assert label in labels
    actors = {line.split()[1] for line in drawn if line.startswith("    participant ")}
    messages = [line for line in drawn[1:] if not line.startswith("    participant ")]
    for message in messages:
        ends = message.strip().partition(": ")[0].replace("--x", ">").replace("-->>", ">").replace("->>", ">").split(">")
        assert set(ends) <= actors or ends[0].startswith("Note over "), message
    assert any("--x" in message for message in messages)


@pytest.mark.parametrize("text", ["a;b", "a#b", "a\nb", "<b>", "a%%b", '"x"', "{a}", "[a]", "a\x1b[31m", "a\\b", "ü"])
def test_what_mermaid_could_take_for_its_own_is_escaped(text) -> None:
    shown = escaped(text)
    assert not set(shown.replace("#", "").replace(";", "")) & set(';#\n<>%"{}[]\x1b\\ü')
    assert shown.count("#") == shown.count(";") >= 1

"""A log that cannot be used closes what stands on it, and nothing else; whoever waits for it is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from dq import BrokerManager, Consumer, Damaged, NewerFormat, Publisher
from stage import drain, sink_of, until


def spoil(path: Path, word: bytes) -> None:
    content = path.read_bytes()
    assert word in content
    path.write_bytes(content.replace(word, word[:-1] + b"?"))


def test_a_consumer_whose_stream_cannot_be_read_is_told_and_does_not_wait_for_ever(tmp_path: Path) -> None:
    root = tmp_path / "queue_data"
    with BrokerManager(root) as broker, Publisher(broker, "broken") as broken, Publisher(broker, "sound") as sound:
        broken.publish("remarkable")
        sound.publish("sound")
        [path] = (root / "streams" / "broken" / "0").glob("*.jsonl")
        spoil(path, b"remarkable")
        with (
            pytest.raises(Damaged, match=f"{path}, byte .*--truncate-at"),
            Consumer(broker, "broken", sink="all") as consumer,
        ):
            list(consumer)
        # One that comes later is told at once
        with pytest.raises(Damaged, match="--truncate-at"):
            Consumer(broker, "broken", sink="all")
        # Publishing to it goes on, and so does the other stream
        broken.publish("more")
        assert [task.payload for task in drain(broker, "sound", sink="others")] == ["sound"]


def test_a_sink_over_two_streams_goes_on_with_the_one_that_can_be_read(tmp_path: Path) -> None:
    root = tmp_path / "queue_data"
    with BrokerManager(root) as broker, Publisher(broker, "broken") as broken, Publisher(broker, "sound") as sound:
        broken.publish("remarkable")
        [path] = (root / "streams" / "broken" / "0").glob("*.jsonl")
        spoil(path, b"remarkable")
        with Consumer(broker, "broken", "sound", sink="both", idle_timeout=1) as consumer:
            sound.publish("sound")
            assert [task.payload for task in consumer] == ["sound"]
        assert list(sink_of(broker, "both")["damaged"]) == ["broken/0"]


@pytest.mark.parametrize(
    ("file", "content", "error"),
    [
        ("sink.json", b'{"format":9}\n', NewerFormat),
        ("sink.json", b"nonsense", Damaged),
        ("00000000000000000000.jsonl", b"nonsense\n", Damaged),
    ],
    ids=["newer", "settings", "log"],
)
def test_a_sink_that_cannot_be_opened_is_closed_alone(tmp_path: Path, file: str, content: bytes, error: type) -> None:
    root = tmp_path / "queue_data"
    with BrokerManager(root) as broker:
        broker.stream("s", segment_bytes=4096, keep_seconds=0, keep_bytes=0)
        for sink in ("broken", "sound"):
            Consumer(broker, "s", sink=sink).close()
    whole = (root / "sinks" / "broken" / file).read_bytes()
    (root / "sinks" / "broken" / file).write_bytes(content)
    with BrokerManager(root) as broker:
        with pytest.raises(error, match=file):
            Consumer(broker, "s", sink="broken")
        with Publisher(broker, "s", batch_size=5) as publisher:
            publisher.publish_many("x" * 500 for _ in range(100))
            assert len(drain(broker, "s", sink="sound")) == 100
            # Nothing is trimmed: nobody knows what the closed one has settled
            until(lambda: sink_of(broker, "sound")["settled"] == 100)
            assert list(broker.stats()["consumer_broker"]["closed"]) == ["broken"]
            # When it is put back, it opens without a new start
            (root / "sinks" / "broken" / file).write_bytes(whole)
            assert len(drain(broker, "s", sink="broken")) == 100
            # And now what both have settled goes
            until(lambda: len(list((root / "streams" / "s" / "0").glob("*.jsonl"))) == 1, what="it is trimmed")

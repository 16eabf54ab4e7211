"""Delayed records whose stream is missing, damaged, full or made anew: they wait, say why, and cost nobody else anything."""

from __future__ import annotations

import io
import shutil
import time
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from full_backends import FullBackend

from dq import BrokerManager, Consumer
from dq.cli.commands import run
from dq.core.buckets import bucket_of
from stage import until


def taken(broker: BrokerManager, stream: str, count: int) -> list:
    """The payloads of so many records, and of one more if it comes at once."""
    payloads = []
    with Consumer(broker, stream, sink=f"{stream}-sink", idle_timeout=10) as consumer:
        for task in consumer:
            payloads.append(task.payload)
            task.ack()
            if len(payloads) == count:
                break
        consumer.flush(5)
    with Consumer(broker, stream, sink=f"{stream}-sink", idle_timeout=0.1) as consumer:
        return payloads + [(task.payload, task.ack())[0] for task in consumer]


def later(broker: BrokerManager, stream: str) -> dict:
    return broker.stats()["consumer_broker"].get("later", {}).get(stream, {})


def told(broker: BrokerManager, command: str) -> str:
    with redirect_stdout(io.StringIO()) as said:
        run([command, "-d", str(broker.root)], "dq")
    return said.getvalue()


def stopped_before_they_come(place: Path, *streams: str) -> Path:
    """A directory whose streams have two delayed records each. None has come, however slow the machine is."""
    for delay in (0.8, 4.0, 20.0):
        root = place / f"q{delay:g}"
        with BrokerManager(root) as broker:
            for stream in streams:
                broker.publish(stream, "first")
            began = time.monotonic()
            for stream in streams:
                broker.publish(stream, "delayed", delay=delay)
                broker.publish(stream, "much later", delay=delay + 0.2)
        if time.monotonic() < began + delay:
            return root
    raise AssertionError("it takes 20 s to publish six records and to stop")


def test_a_stream_that_is_missing_and_one_that_is_damaged(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root, kept = stopped_before_they_come(tmp_path, "missing", "damaged", "well"), tmp_path / "kept"
    (root / "streams" / "missing").rename(kept)
    segment = next((root / "streams" / "damaged" / "0").glob("*.jsonl"))
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-30] + b"?" * 30)
    (root / "streams" / "clean.json").unlink(missing_ok=True)
    with BrokerManager(root) as broker:
        assert taken(broker, "well", 3) == ["first", "delayed", "much later"]
        until(lambda: "is missing" in later(broker, "missing").get("why", ""), what="it says that its stream is missing")
        until(lambda: segment.name in later(broker, "damaged").get("why", ""), what="it says what is damaged")
        status = told(broker, "status")
        assert "missing: 2 delayed records wait: stream 'missing' is missing" in status
        assert "damaged: 2 delayed records wait: " in status
        segment.write_bytes(whole)  # mended, and found by itself
        assert taken(broker, "damaged", 3) == ["first", "delayed", "much later"]
        until(lambda: later(broker, "damaged")["why"] == "", what="it goes on")
        broker.publish("missing", "made anew")
        assert sorted(taken(broker, "missing", 3)) == ["delayed", "made anew", "much later"]
        assert later(broker, "missing")["why"] == ""
        assert (later(broker, "missing")["waiting"], later(broker, "damaged")["waiting"]) == (0, 0)
        assert broker.stats()["consumer_broker"]["restarts"] == 0
    said = capfd.readouterr().err
    assert "the delayed records of missing wait: stream 'missing' is missing" in said
    assert "records of damaged-later whose time has come wait: " in said
    assert said.count("go on") == 2
    shutil.rmtree(kept)


def test_streams_that_are_full(broker: BrokerManager, name: str, tmp_path: Path) -> None:
    """Their other buckets and other streams go on; there is room, and all of it comes, once and in order."""
    whys = {"QueueFull": "it is full", "DiskFull": "there is no room"}
    zero, one = (next(key for key in "abcdefgh" if bucket_of(key, 2) == bucket) for bucket in (0, 1))
    for error in whys:
        broker.stream(f"{name}-{error}", buckets=2, backend=FullBackend, backend_options={"full": str(tmp_path / error)})
        (tmp_path / error).write_text(error)
    for turn in range(3):  # more than one batch is under way
        for stream in (f"{name}-{error}" for error in whys):
            broker.publish(stream, f"{zero}{turn}", key=zero, delay=0.1 + turn * 0.1)
            broker.publish(stream, f"{one}{turn}", key=one, delay=0.1 + turn * 0.1)
        broker.publish(f"{name}-other", turn, delay=0.1)
    assert taken(broker, f"{name}-other", 3) == [0, 1, 2]
    for error, why in whys.items():
        stream = f"{name}-{error}"
        assert taken(broker, stream, 3) == [f"{one}{turn}" for turn in range(3)]
        assert later(broker, stream)["why"] == why
        broker.publish(stream, "more", key=one, delay=0.05)
        assert taken(broker, stream, 1) == ["more"]
        assert later(broker, stream)["why"] == why, "what another bucket takes changes nothing for this one"
        assert f"{stream}: 3 delayed records wait: {why}" in told(broker, "status")
    checked = told(broker, "check")
    assert checked.startswith("DQ WARNING - ")
    assert f"3 delayed records of {name}-QueueFull are held up: it is full" in checked
    for error in whys:
        (tmp_path / error).unlink()
    for stream in (f"{name}-{error}" for error in whys):
        assert taken(broker, stream, 3) == [f"{zero}{turn}" for turn in range(3)]
        assert (later(broker, stream)["why"], later(broker, stream)["waiting"]) == ("", 0)


def test_a_stream_that_is_destroyed_while_its_records_are_on_their_way_and_made_anew(
    broker: BrokerManager, name: str, tmp_path: Path
) -> None:
    """What waited for it went with it; what waits for the new one comes."""
    full = tmp_path / "full"
    settings = {"buckets": 2, "backend": FullBackend, "backend_options": {"full": str(full)}}
    stream = broker.stream(name, **settings)
    full.write_text("QueueFull")
    for key in "abcdefgh":
        broker.publish(name, "old", key=key, delay=0.05)
    broker.publish(name, "old", delay=0.6)
    until(lambda: later(broker, name).get("under_way"), what="they are on their way")
    stream.destroy()
    full.unlink()
    broker.stream(name, buckets=1)
    broker.publish(name, "new", delay=1.2)  # after a resend of what was under way
    assert taken(broker, name, 1) == ["new"]
    assert later(broker, name)["moved"] == 1


def test_what_waits_goes_with_its_stream_though_it_cannot_be_read(tmp_path: Path) -> None:
    """Else it would come to a stream that is made anew once it can be read again."""
    root = stopped_before_they_come(tmp_path, "emails")
    segment = next((root / "streams" / "emails-later" / "0").glob("*.jsonl"))
    whole = segment.read_bytes()
    segment.write_bytes(whole[:-30] + b"?" * 30 + b"\n" + whole)
    (root / "streams" / "clean.json").unlink(missing_ok=True)
    with BrokerManager(root) as broker:
        assert "emails-later" in broker.stats()["publisher_broker"]["closed"]
        broker.stream("emails").destroy()
        assert "emails-later" not in broker.stats()["publisher_broker"]["closed"]
        assert not (root / "streams" / "emails-later").exists()

"""A delayed record whose stream cannot be opened waits until that is mended, and costs nobody else anything."""

from __future__ import annotations

from dq import BrokerManager, Consumer
from stage import kill, until


def test_what_is_due_waits_until_its_stream_is_mended(tmp_path) -> None:
    root = tmp_path / "q"
    with BrokerManager(root) as broker:
        broker.publish("broken", "first")
        broker.publish("well", 1)
        broker.publish("broken", "delayed", delay=0.3)
    settings = root / "streams" / "broken" / "stream.json"
    kept = settings.read_bytes()
    settings.write_bytes(b"{")
    with BrokerManager(root) as broker:
        until(lambda: _later(broker).get("why"), what="it says why it waits")
        pid = broker.stats()["consumer_broker"]["pid"]
        with Consumer(broker, "well", sink="well", idle_timeout=0.5) as consumer:
            assert [(task.payload, task.ack())[0] for task in consumer] == [1]
        assert broker.stats()["consumer_broker"]["pid"] == pid
        kill(pid)  # the next one finds what was under way, and the stream as it is
        until(lambda: broker.stats()["consumer_broker"].get("ready") and broker.stats()["consumer_broker"]["pid"] != pid)
        until(lambda: _later(broker).get("why"), what="it waits still")
        assert broker.stats()["consumer_broker"]["restarts"] == 1
    settings.write_bytes(kept)
    with BrokerManager(root) as broker:
        with Consumer(broker, "broken", sink="s", idle_timeout=2) as consumer:
            assert [(task.payload, task.ack())[0] for task in consumer] == ["first", "delayed"]
        until(lambda: not _later(broker).get("why"))


def _later(broker: BrokerManager) -> dict:
    return broker.stats()["consumer_broker"].get("later", {}).get("broken", {})

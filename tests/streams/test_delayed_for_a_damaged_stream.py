"""A delayed record whose stream cannot be opened waits until that is mended, and costs nobody else anything."""

from __future__ import annotations

from dq import BrokerManager
from stage import drain, kill, until


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
        assert [task.payload for task in drain(broker, "well", sink="well")] == [1]
        assert broker.stats()["consumer_broker"]["pid"] == pid
        kill(pid)  # the next one finds what was under way, and the stream as it is
        until(lambda: broker.stats()["consumer_broker"].get("ready") and broker.stats()["consumer_broker"]["pid"] != pid)
        until(lambda: _later(broker).get("why"), what="it waits still")
        assert broker.stats()["consumer_broker"]["restarts"] == 1
    settings.write_bytes(kept)
    with BrokerManager(root) as broker:
        until(lambda: broker.stats()["publisher_broker"]["streams"]["broken"]["records"] == 2, what="the delayed one has moved")
        assert [task.payload for task in drain(broker, "broken", sink="s")] == ["first", "delayed"]
        until(lambda: not _later(broker).get("why"))


def _later(broker: BrokerManager) -> dict:
    return broker.stats()["consumer_broker"].get("later", {}).get("broken", {})

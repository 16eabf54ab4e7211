"""`app.report()`: what became of all that was sent, counted from the logs."""

from __future__ import annotations

from pathlib import Path

import pytest

from dq import App, BrokerManager, Sink, UsageError
from dq.app import DeadLetter, Drop, Retry
from dq.app.report import ReportLine
from dq.testing import MemoryEngine
from stage import Child, Threaded, settled, until


def columns(line: ReportLine) -> dict[str, int]:
    """What is not 0."""
    names = [name for name in ReportLine.__slots__ if name not in ("handler", "sink", "stream")]
    return {name: getattr(line, name) for name in names if getattr(line, name)}


def shop(broker: BrokerManager, name: str) -> App:
    app = App(broker, sink=name)

    @app.handler(name, f"{name}.b", topic="wanted")
    def choose(payload: str):
        return {"drop": Drop(), "dead": DeadLetter("no"), "later": Retry(50), "much later": Retry(1000)}.get(payload)

    @app.handler(name)
    def all_of_them(payload: str) -> None: ...

    return app


def test_each_record_is_in_one_column(broker: BrokerManager, name: str) -> None:
    app = shop(broker, name)
    for payload in ("ack", "ack", "drop", "dead", "later", "much later", "other"):
        app.publish(name, payload, topic=None if payload == "other" else "wanted")
    app.publish(f"{name}.b", "ack", topic="wanted")
    assert columns(app.report().line("choose", name)) == {"sent": 7, "waiting": 7}
    # When the handlers run until only the delayed one is left
    worker = App(broker, sink=name)
    worker.handlers = app.handlers
    runner = Threaded(worker.run)
    until(lambda: settled(broker, f"{name}.choose", 6) and settled(broker, f"{name}.all_of_them", 7))
    worker.stop()
    runner.result()
    # Then each is counted where it ended, by handler and stream
    report = app.report()
    assert columns(report.line("choose", name)) == {
        "sent": 7, "handled": 2, "dropped": 1, "dead": 1, "postponed": 1, "passed": 1, "delayed": 1,
    }  # fmt: skip
    assert columns(report.line("choose", f"{name}.b")) == {"sent": 1, "handled": 1}
    assert columns(report.line("all_of_them")) == {"sent": 7, "handled": 7}
    assert report.sound
    assert all(line.adds_up for line in report.lines)
    shown = str(report).splitlines()
    assert shown[0].split()[:4] == ["handler", "stream", "sent", "handled"]
    assert shown[1].split()[:4] == ["choose", name, "7", "2"]
    assert shown[-1] == "nothing lost"


def test_a_record_that_was_lost_is_reported(broker: BrokerManager, name: str) -> None:
    app = shop(broker, name)
    stream = broker.stream(name, segment_bytes=1 << 16, keep_seconds=0)
    app.run(burst=True)
    big = "x" * 40_000
    for _ in range(6):
        app.publish(name, big, topic="wanted")
    # When somebody trims what no handler has had yet
    stream.trim(max_records=1)
    until(lambda: app.report().line("choose").lost == 5)
    # Then it is lost, and the sum is right all the same
    report = app.report()
    assert columns(report.line("choose", name)) == {"sent": 6, "waiting": 1, "lost": 5}
    assert all(line.adds_up for line in report.lines)
    assert not report.sound
    assert str(report).endswith("10 lost")
    app.run(burst=True)
    assert columns(app.report().line("choose", name)) == {"sent": 6, "handled": 1, "lost": 5}


def test_a_record_that_was_handled_twice_is_reported(broker: BrokerManager, name: str) -> None:
    app = shop(broker, name)
    for payload in ("a", "b", "c"):
        app.publish(name, payload, topic="wanted")
    app.run(burst=True)
    Sink(broker, f"{name}.all_of_them").seek(f"{name}/0/0")
    app.run(burst=True)
    line = app.report().line("all_of_them")
    assert line.adds_up
    assert (line.sent, line.handled) == (3, 3)
    assert line.twice in (2, 3), "a seek goes behind the record it names, or to it"
    assert app.report().line("choose", name).twice == 0


def test_what_a_dead_consumer_had_in_hand_may_have_been_done_twice(broker: BrokerManager, name: str) -> None:
    app = shop(broker, name)
    app.publish(name, "a", topic="wanted")
    dying = (
        "from dq import App\n"
        "app = App(sys.argv[1], sink=sys.argv[2])\n"
        "@app.handler(sys.argv[2])\n"
        "def all_of_them(payload: str) -> None:\n"
        "    os._exit(9)\n"
        "app.run()\n"
    )
    with Child(dying, broker.root, name) as child:
        assert child.wait() == 9
    app.run(burst=True)
    assert columns(app.report().line("all_of_them")) == {"sent": 1, "handled": 1, "perhaps_twice": 1}


def test_it_needs_no_broker(tmp_path: Path) -> None:
    with BrokerManager(tmp_path / "q") as broker:
        app = shop(broker, "s")
        app.publish("s", "a", topic="wanted")
        app.run(burst=True)
    cold = App(tmp_path / "q", sink="s")
    cold.handlers = app.handlers
    assert columns(cold.report().line("choose", "s")) == {"sent": 1, "handled": 1}
    with pytest.raises(UsageError, match="no logs"):
        App(MemoryEngine()).report()
    with pytest.raises(KeyError):
        cold.report().line("nobody")

"""`dq top`, `dq metrics` and what Prometheus is answered."""

from __future__ import annotations

import json
import socket
import urllib.request
from collections.abc import Iterator

import pytest

from dq import BrokerManager, Consumer, Publisher
from dq.cli.exits import Exit
from dq.cli.exporter import Exporter
from dq.cli.top_rates import view_of
from dq.cli.top_screen import bar, brief, layout, rate
from dq.errors import InUse, InvalidSetting


@pytest.fixture(scope="module")
def broker(tmp_path_factory) -> Iterator[BrokerManager]:
    with BrokerManager(tmp_path_factory.mktemp("top") / "queue_data") as shared:
        with Publisher(shared, "orders") as publisher:
            publisher.publish_many(range(20))
        with Consumer(shared, "orders", sink="billing", prefetch=1) as consumer:
            next(iter(consumer)).ack(wait=True)
        yield shared


def test_top_prints_tables_in_a_pipe(broker, dq):
    ended = dq("top", "--data", broker.root, "--interval", "0.1s", "--count", 2)
    assert (ended.code, ended.err) == (0, "")
    assert [line.split()[0] for line in ended.out.splitlines() if line].count("SINK") == 2
    row = next(line.split() for line in ended.out.splitlines() if line.startswith("billing"))
    assert row[1:4] == ["0", "0", "19"]


def test_top_prints_a_line_of_json_each_look(broker, dq):
    ended = dq("top", "-d", broker.root, "-i", "0.1", "-n", 2, "--json")
    looks = [json.loads(line) for line in ended.out.splitlines()]
    assert len(looks) == 2
    assert looks[0]["sinks"][0]["waiting"] == 19
    assert looks[0]["sinks"][0]["oldest"] > 0
    assert looks[1]["streams"][0]["records"] == 20


def test_top_and_metrics_need_a_broker(dq, tmp_path):
    for command in ("top", "metrics"):
        ended = dq(command, "--data", tmp_path)
        assert ended.code == Exit.NO_BROKER
        assert len(ended.err.splitlines()) == 1
    assert dq("top", "--data", tmp_path, "--interval", "0.01").code == Exit.USAGE


def test_the_screen_fits_into_the_terminal(broker):
    from rich.console import Console

    view = view_of(broker.metrics(), broker.metrics())
    for height in (10, 24):
        console = Console(width=80, height=height, no_color=True)
        with console.capture() as capture:
            console.print(layout(view, height))
        shown = capture.get().splitlines()
        assert len(shown) <= height
        assert any(line.startswith("billing") and "19" in line for line in shown)


def test_figures_for_people():
    assert [rate(value) for value in (0, 0.25, 12, 4_321.6)] == ["0", "0.2", "12", "4,322"]
    assert [brief(value) for value in (None, 0.00082, 0.25, 75)] == ["-", "0.82 ms", "250 ms", "1 min 15 s"]
    assert [bar(value, 8) for value in (0, 4, 8, 9)] == ["        ", "████    ", "████████", "████████"]
    assert bar(1, 0) == "        "


def test_metrics_as_text_and_as_json(broker, dq):
    text = dq("metrics", "-d", broker.root).out
    assert 'dq_sink_waiting{sink="billing"} 19.0' in text
    told = json.loads(dq("metrics", "-d", broker.root, "--json").out)
    assert told["sinks"]["billing"]["settled"] == 1
    assert told["hand_seconds"]["billing"]["count"] == 1
    assert told["store_seconds"]["p99"] > 0


def test_prometheus_is_answered_over_http(broker):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InUse, match=f"port {port} of 127.0.0.1 is used by another program"):
            Exporter(broker.root, port, "127.0.0.1")
    with Exporter(broker.root, port, "127.0.0.1") as exporter, urllib.request.urlopen(exporter.url, timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert b'dq_stream_records{stream="orders"} 20.0' in answer.read()
    with pytest.raises(InvalidSetting, match="metrics cannot be served at"):
        Exporter(broker.root, port, "192.0.2.1")


def test_prometheus_learns_that_nobody_serves(tmp_path):
    with Exporter(tmp_path, 0, "127.0.0.1") as exporter, urllib.request.urlopen(exporter.url, timeout=10) as answer:
        lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
    assert lines == ["dq_up 0.0"]

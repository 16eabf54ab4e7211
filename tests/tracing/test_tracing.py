"""Trace context in the headers of records, and the spans of who publishes and who handles."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import dq
import dq.aio
from dq import App, BrokerManager, Publisher, TaskIn, tracing
from dq.app import AppConfig, DeadLetter
from stage import until

HERE = Path(__file__).parent
STRANGE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Spans:
    """What was traced."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("tests")

    def named(self, name: str) -> list:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]


@pytest.fixture
def spans() -> Iterator[Spans]:
    """This process traces, as long as the test runs."""
    spans = Spans()
    tracing.instrument(spans.provider)
    yield spans
    tracing.tracer = None


def parent_of(span) -> int:
    return span.parent.span_id if span.parent is not None else 0


def records(broker: BrokerManager, stream: str) -> list[dq.Record]:
    with broker.reader(stream, start="oldest", follow=False) as reader:
        return list(reader)


# --- across processes ------------------------------------------------------------------------------------------------


def test_one_trace_from_those_who_publish_to_handlers_in_other_processes(
    broker: BrokerManager, spans: Spans, tmp_path: Path
) -> None:
    # When records are published in all ways within a span, and `dq work` handles them
    with spans.tracer.start_as_current_span("request") as request:
        token = context.attach(baggage.set_baggage("tenant", "t7"))
        with Publisher(broker, "traced") as publisher:
            publisher.publish("first")
            publisher.submit(2).result(10)
            publisher.publish_many([3, TaskIn(4, key="k", headers={"own": "1"})])
        broker.stream("onwards")
        asyncio.run(published_by_asyncio(broker))
        context.detach(token)
    file = tmp_path / "spans"
    subprocess.run(
        [sys.executable, "-m", "dq.main", "work", "traced_jobs:app", "--burst", "-q", "-d", str(broker.root)],
        env={**os.environ, "PYTHONPATH": str(HERE), "DQ_TEST_SPANS": str(file)}, check=True, timeout=60,
    )  # fmt: skip
    # Then all is one trace: what handles a record stands below what published it
    trace_id = request.get_span_context().trace_id
    sent = spans.named("publish traced")
    assert {span.context.trace_id for span in sent} == {trace_id}
    assert {parent_of(span) for span in sent} == {request.get_span_context().span_id}
    handled = [json.loads(line) for line in file.read_text().splitlines()]
    assert {found[1] for found in handled} == {trace_id}
    processed = [found for found in handled if found[0] == "process traced"]
    count = 4 + 5
    assert Counter(found[4]["dq.handler"] for found in processed) == {
        "in_a_thread": count, "on_a_loop": count, "in_a_process": count
    }  # fmt: skip
    assert {found[2] for found in processed} == {span.context.span_id for span in sent}
    assert len({found[5] for found in processed}) == 2  # the app, and its worker
    # And what a handler publishes stands below the handler
    (onwards,) = [found for found in handled if found[0] == "publish onwards"]
    assert onwards[2] in {found[3] for found in processed if found[4]["dq.handler"] == "in_a_thread"}
    (record,) = records(broker, "onwards")
    assert record.headers["baggage"] == "tenant=t7"
    assert next(each for each in records(broker, "traced") if each.key == "k").headers["own"] == "1"


async def published_by_asyncio(broker: BrokerManager) -> None:
    async def some():
        yield 8

    async with dq.aio.Publisher(broker, "traced") as publisher:
        await publisher.publish(5)
        await publisher.submit(6)
        await publisher.publish_many([7])
        await publisher.publish_many(some())
    async with dq.aio.connect(broker.root) as handle:
        await handle.publish("traced", 9)


# --- what is said of them ----------------------------------------------------------------------------------------------


def test_a_publish_and_its_task_say_what_they_are_about(broker: BrokerManager, name: str, spans: Spans) -> None:
    receipt = broker.publish(name, {"n": 1}, key="secret", headers={"h": "secret"})
    with dq.Consumer(broker, name, sink=name, idle_timeout=0.2) as consumer:
        for task in consumer:
            with task:
                assert trace.get_current_span().is_recording()
    assert not trace.get_current_span().get_span_context().is_valid
    (sent,), (done,) = spans.named(f"publish {name}"), spans.named(f"process {name}")
    assert (sent.kind, done.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    about = {"messaging.system": "dq", "messaging.destination.name": name, "messaging.message.id": receipt.id}
    assert dict(sent.attributes) == {
        **about, "messaging.operation.name": "publish", "messaging.operation.type": "send"
    }  # fmt: skip
    assert dict(done.attributes) == {
        **about, "messaging.operation.name": "process", "messaging.operation.type": "process",
        "messaging.consumer.group.name": name, "messaging.destination.partition.id": "0", "dq.attempt": 1, "dq.outcome": "ack",
    }  # fmt: skip
    assert parent_of(done) == sent.context.span_id


def test_many_records_are_one_span(broker: BrokerManager, name: str, spans: Spans) -> None:
    with Publisher(broker, name) as publisher:
        publisher.publish_many(range(1_200))
    (sent,) = spans.named(f"publish {name}")
    assert sent.attributes["messaging.batch.message_count"] == 1_200
    assert {record.headers["traceparent"][36:52] for record in records(broker, name)} == {f"{sent.context.span_id:016x}"}


def test_what_fails_is_said(broker: BrokerManager, name: str, spans: Spans) -> None:
    with Publisher(broker, name) as publisher:
        for fail in (publisher.publish, publisher.submit, lambda item: publisher.publish_many([item])):
            with pytest.raises(dq.InvalidPayload):
                fail(object())
        with pytest.raises(dq.InvalidSetting):
            publisher.publish(1, once="")
    sent = spans.named(f"publish {name}")
    assert [span.attributes["error.type"] for span in sent] == ["InvalidPayload"] * 3 + ["InvalidSetting"]
    assert {span.status.status_code for span in sent} == {StatusCode.ERROR}
    # And a block that raises
    broker.publish(name, 1)
    with dq.Consumer(broker, name, sink=name) as consumer:
        task = next(iter(consumer))
        with pytest.raises(ZeroDivisionError), task:
            raise ZeroDivisionError
    (done,) = spans.named(f"process {name}")
    assert (done.attributes["error.type"], done.attributes["dq.outcome"]) == ("ZeroDivisionError", "retry")


def test_a_context_that_is_given_is_kept_and_linked(broker: BrokerManager, name: str, spans: Spans) -> None:
    with Publisher(broker, name) as publisher:
        publisher.publish(1, headers={"traceparent": STRANGE})
        publisher.publish_many([TaskIn(2, headers={"traceparent": STRANGE}), 3])
    given = [record.headers["traceparent"] == STRANGE for record in records(broker, name)]
    assert given == [True, True, False]
    (link,) = spans.named(f"publish {name}")[0].links
    assert f"{link.context.trace_id:032x}" == STRANGE[3:35]


# --- its whole way -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_retries_dead_letters_and_replays_keep_the_context(broker: BrokerManager, name: str, spans: Spans, kind: str) -> None:
    app = App(broker, sink=name, config=AppConfig(handler_max_attempts=2))
    mended: list[str] = []

    def act(payload: str) -> object:
        if not mended and payload == "raises":
            raise ValueError("not yet")
        return None if mended else DeadLetter("given up")

    async def act_async(payload: str) -> object:
        return act(payload)

    app.handler(name, name="act")(act if kind == "sync" else act_async)
    with spans.tracer.start_as_current_span("request") as request:
        app.publish(name, "raises", delay=0.05)
        app.publish(name, "gives up")
    # When a delayed record fails twice, another one is given up, and both are replayed once that is mended
    until(lambda: len(records(broker, name)) == 2)
    app.run(burst=True)
    letters = broker.dlq(name)
    until(lambda: letters.count() == 2)
    mended.append("now")
    letters.replay()
    app.run(burst=True)
    # Then all of it is in the trace in which they were published
    done = spans.named(f"process {name}")
    assert {span.context.trace_id for span in done} == {request.get_span_context().trace_id}
    assert sorted((span.attributes["dq.attempt"], span.attributes.get("dq.outcome", "raised")) for span in done) == [
        (1, "ack"), (1, "ack"), (1, "dead_letter"), (1, "raised"), (2, "raised")
    ]  # fmt: skip
    app.close()


# --- on and off ------------------------------------------------------------------------------------------------------------


def test_without_a_provider_nothing_is_traced(broker: BrokerManager, name: str) -> None:
    assert tracing.tracer is None
    broker.publish(name, 1)
    assert records(broker, name)[0].headers == {}
    assert tracing.tracer is None


@pytest.mark.parametrize(
    ("wish", "provider", "on"),
    [("", True, True), ("", False, False), ("0", True, False), ("off", True, False), ("1", False, True)],
)
def test_who_decides_whether_it_traces(
    broker: BrokerManager, name: str, monkeypatch: pytest.MonkeyPatch, wish: str, provider: bool, on: bool
) -> None:
    monkeypatch.setenv("DQ_TRACING", wish)
    monkeypatch.setattr(trace, "get_tracer_provider", Spans().provider.__class__ if provider else trace.ProxyTracerProvider)
    monkeypatch.setattr(tracing, "tracer", None)
    with Publisher(broker, name):
        assert (tracing.tracer is not None) == on


def test_a_context_is_carried_on_where_no_span_is_made(
    broker: BrokerManager, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As between two services that trace, with one in between that only passes on."""
    monkeypatch.setattr(tracing, "tracer", None)
    tracing.instrument()
    made = trace.NonRecordingSpan(trace.SpanContext(7, 9, is_remote=True, trace_flags=trace.TraceFlags(1)))
    with trace.use_span(made):
        broker.publish(name, 1)
    broker.publish(name, 2)
    first, second = records(broker, name)
    assert first.headers["traceparent"] == f"00-{7:032x}-{9:016x}-01"
    assert second.headers == {}


def test_who_wants_to_trace_without_opentelemetry_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "tracer", None)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(dq.InvalidSetting, match="install opentelemetry-api"):
        tracing.instrument()
    assert tracing.tracer is None


def test_what_was_switched_off_stays_off(broker: BrokerManager, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_decided", False)
    monkeypatch.setenv("DQ_TRACING", "1")
    tracing.uninstrument()
    broker.publish(name, 1)
    assert tracing.tracer is None

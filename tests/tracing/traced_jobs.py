"""An app whose processes trace into a file; it is imported by `dq work` and by its workers alone."""

from __future__ import annotations

import asyncio
import json
import os

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from dq import App


class Lines(SpanExporter):
    """A line of JSON for each span."""

    def export(self, spans) -> SpanExportResult:
        with open(os.environ["DQ_TEST_SPANS"], "a") as file:
            for span in spans:
                parent = span.parent.span_id if span.parent is not None else 0
                context = span.get_span_context()
                print(
                    json.dumps([span.name, context.trace_id, parent, context.span_id, dict(span.attributes), os.getpid()]),
                    file=file,
                )
        return SpanExportResult.SUCCESS


provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(Lines()))
trace.set_tracer_provider(provider)
app = App(sink="traced")


@app.handler("traced")
def in_a_thread(payload) -> None:
    if payload == "first":
        app.publish("onwards", payload)


@app.handler("traced")
async def on_a_loop(payload) -> None:
    await asyncio.sleep(0)


@app.handler("traced", processes=1)
def in_a_process(payload) -> None:
    """Its worker has a provider of its own."""

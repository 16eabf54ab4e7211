"""OpenTelemetry: the trace context in the headers of records, a span for each publish and each task that is handled.

It is on in a process that has a tracer provider of OpenTelemetry when a publisher, a consumer or a run of an app begins (as it
has under `opentelemetry-instrument`), or once `instrument()` is called. `DQ_TRACING=0` keeps it off, `DQ_TRACING=1` puts it on.
Where it is off, it costs a look at one name a call, and OpenTelemetry is not imported.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from dq.errors import InvalidSetting
from dq.model.outcome import Outcome
from dq.model.receipt import Receipt, Receipts
from dq.model.task import TaskIn

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanKind, TracerProvider

_OFF: Final = frozenset({"0", "false", "no", "off"})
_TRACE_PARENT: Final = "traceparent"
_ENDS: Final = {
    "Ack": Outcome.ACK, "Drop": Outcome.DROP, "Retry": Outcome.RETRY, "DeadLetter": Outcome.DEAD_LETTER,
    "Release": Outcome.RELEASE,
}  # fmt: skip
F = TypeVar("F")


class Handled(Protocol):
    """What a span says of a task."""

    @property
    def id(self) -> str:
        """Of the record."""

    @property
    def stream(self) -> str:
        """Name of the stream."""

    @property
    def sink(self) -> str:
        """Name of the sink."""

    @property
    def headers(self) -> Mapping[str, str]:
        """With the context in which it was published."""

    @property
    def attempt(self) -> int:
        """From 1."""

    @property
    def outcome(self) -> Outcome | None:
        """What was decided by a verb, or None."""


class Carried(dict[str, str]):
    """Headers with a context in them: the call that has them is within its span already."""


class CarriedItems(Iterable[Any]):
    """What `publish_many` was given, each with the context in its headers."""

    def __init__(self, items: Iterable[Any], carrier: Mapping[str, str]) -> None:
        self._items, self._carrier = items, carrier

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            yield _carried(item, self._carrier)


class CarriedStream(AsyncIterable[Any]):
    """The same of an async iterable."""

    def __init__(self, items: AsyncIterable[Any], carrier: Mapping[str, str]) -> None:
        self._items, self._carrier = items, carrier

    async def __aiter__(self) -> AsyncIterator[Any]:
        async for item in self._items:
            yield _carried(item, self._carrier)


def _carried(item: Any, carrier: Mapping[str, str]) -> TaskIn:
    part = item if type(item) is TaskIn else TaskIn(item)
    return part._replace(headers=_with(part.headers, carrier))


def _with(headers: Mapping[str, str] | None, carrier: Mapping[str, str]) -> Carried:
    """Headers and a context; one that was given is kept."""
    given = headers or {}
    return Carried(given) if _TRACE_PARENT in given else Carried({**carrier, **given})


class Tracer:
    """Makes the spans. It is made by `instrument`.

    Args:
        provider: of the spans; None: the one of the process.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        from opentelemetry import context, propagate, trace

        self._context, self._propagate, self._trace = context, propagate, trace
        self._tracer = trace.get_tracer("dq", tracer_provider=provider)

    # --- publishing ----------------------------------------------------------------------------------------------------

    def publish(self, stream: str, headers: Mapping[str, str] | None, call: Callable[..., Receipt]) -> Receipt:
        """One record, until its receipt; `call` publishes it with the headers that it is given."""
        with self._sending(stream, headers) as (span, carrier):
            receipt = call(headers=_with(headers, carrier))
            span.set_attribute("messaging.message.id", receipt.id)
        return receipt

    async def publish_async(
        self, stream: str, headers: Mapping[str, str] | None, call: Callable[..., Awaitable[Receipt]]
    ) -> Receipt:
        """The same for asyncio."""
        with self._sending(stream, headers) as (span, carrier):
            receipt = await call(headers=_with(headers, carrier))
            span.set_attribute("messaging.message.id", receipt.id)
        return receipt

    def submit(self, stream: str, headers: Mapping[str, str] | None, call: Callable[..., F]) -> F:
        """One record that is handed in: its span ends with the future that `call` returns."""
        span = self._start("publish", stream, self._trace.SpanKind.PRODUCER, headers)
        try:
            future: Any = call(headers=_with(headers, self._carrier(span)))
        except BaseException as error:
            _fail(span, error)
            span.end()
            raise
        future.add_done_callback(lambda done: _end_by(span, done))
        return future  # type: ignore[no-any-return]

    def publish_many(self, stream: str, items: Iterable[Any], call: Callable[..., Receipts]) -> Receipts:
        """All records of a call: one span."""
        with self._sending(stream, None) as (span, carrier):
            receipts = call(CarriedItems(items, carrier))
            span.set_attribute("messaging.batch.message_count", len(receipts))
        return receipts

    async def publish_many_async(
        self, stream: str, items: Iterable[Any] | AsyncIterable[Any], call: Callable[..., Awaitable[Receipts]]
    ) -> Receipts:
        """The same for asyncio."""
        with self._sending(stream, None) as (span, carrier):
            many = CarriedStream(items, carrier) if isinstance(items, AsyncIterable) else CarriedItems(items, carrier)
            receipts = await call(many)
            span.set_attribute("messaging.batch.message_count", len(receipts))
        return receipts

    @contextmanager
    def _sending(self, stream: str, headers: Mapping[str, str] | None) -> Generator[tuple[Span, dict[str, str]]]:
        span = self._start("publish", stream, self._trace.SpanKind.PRODUCER, headers)
        with self._current(span, None):
            yield span, self._carrier(span)

    # --- handling --------------------------------------------------------------------------------------------------------

    def handling(self, name: str, call: Callable[[Any], Any], *, is_async: bool) -> Callable[[Any], Any]:
        """A handler's call, each within a span; that of one that is async lasts until what it returns was awaited."""

        async def awaited(task: Handled, result: Awaitable[Any]) -> Any:
            with self._processing(task, name) as span:
                ended = await result
                _tell_outcome(span, task.outcome, ended)
            return ended

        def handled(task: Handled) -> Any:
            with self._processing(task, name) as span:
                result = call(task)
                _tell_outcome(span, task.outcome, result)
            return result

        def handled_later(task: Handled) -> Any:
            result = call(task)
            if inspect.isawaitable(result):
                return awaited(task, result)
            with self._processing(task, name) as span:  # its payload does not fit
                _tell_outcome(span, task.outcome, result)
            return result

        return handled_later if is_async else handled

    def begin(self, task: Handled) -> Any:
        """`with task:` begins; what is returned is for `end`."""
        block = self._processing(task, "")
        return block, block.__enter__()

    @staticmethod
    def end(begun: Any, task: Handled, error: BaseException | None) -> None:
        """`with task:` ends, and the task is settled."""
        block, span = begun
        if task.outcome is not None:
            span.set_attribute("dq.outcome", str(task.outcome))
        try:
            block.__exit__(type(error) if error is not None else None, error, None)
        except BaseException as raised:
            if raised is not error:
                raise

    @contextmanager
    def _processing(self, task: Handled, name: str) -> Generator[Span]:
        parent = self._propagate.extract(task.headers)
        span = self._start("process", task.stream, self._trace.SpanKind.CONSUMER, None, parent)
        about: dict[str, Any] = {
            "messaging.message.id": task.id, "messaging.consumer.group.name": task.sink, "dq.attempt": task.attempt,
        }  # fmt: skip
        if name:
            about["dq.handler"] = name
        bucket = getattr(task, "bucket", None)
        if bucket is not None:
            about["messaging.destination.partition.id"] = str(bucket)
        span.set_attributes(about)
        with self._current(span, parent):
            yield span

    def current(self) -> dict[str, str]:
        """The headers that carry the current span."""
        carrier: dict[str, str] = {}
        self._propagate.inject(carrier)
        return carrier

    # --- both --------------------------------------------------------------------------------------------------------------

    def _start(self, verb: str, stream: str, kind: SpanKind, headers: Mapping[str, str] | None, parent: Any = None) -> Span:
        links = []
        if headers and _TRACE_PARENT in headers:  # it belongs to that trace, which was made elsewhere
            made = self._trace.get_current_span(self._propagate.extract(headers)).get_span_context()
            links = [self._trace.Link(made)] if made.is_valid else []
        about = {
            "messaging.system": "dq", "messaging.destination.name": stream, "messaging.operation.name": verb,
            "messaging.operation.type": "send" if verb == "publish" else verb,
        }  # fmt: skip
        return self._tracer.start_span(f"{verb} {stream}", parent, kind, about, links)

    def _carrier(self, span: Span) -> dict[str, str]:
        carrier: dict[str, str] = {}
        self._propagate.inject(carrier, self._trace.set_span_in_context(span))
        return carrier

    @contextmanager
    def _current(self, span: Span, parent: Any) -> Generator[None]:
        """Within, it is the current span; at the end it ends, by what was raised if something was."""
        token = self._context.attach(self._trace.set_span_in_context(span, parent))
        try:
            yield
        except BaseException as error:
            _fail(span, error)
            raise
        finally:
            self._context.detach(token)
            span.end()


def _tell_outcome(span: Span, decided: Outcome | None, result: object) -> None:
    """What became of a task: by a verb, else by what its handler returned."""
    if decided is None:
        kind = Outcome.ACK if result is None else _ENDS.get(type(result).__name__, Outcome.DEAD_LETTER)
        decided = result if isinstance(result, Outcome) else kind
    span.set_attribute("dq.outcome", str(decided))
    if decided is Outcome.DEAD_LETTER:
        _set_failed(span, "dead letter")


def _end_by(span: Span, future: Any) -> None:
    """The outcome of a record that was handed in is known."""
    if future.cancelled():
        _fail(span, asyncio.CancelledError())
    elif (error := future.exception()) is not None:
        _fail(span, error)
    else:
        span.set_attribute("messaging.message.id", future.result().id)
    span.end()


def _fail(span: Span, error: BaseException) -> None:
    span.set_attribute("error.type", type(error).__qualname__)
    span.record_exception(error)
    _set_failed(span, type(error).__qualname__)


def _set_failed(span: Span, why: str) -> None:
    from opentelemetry.trace import StatusCode

    span.set_status(StatusCode.ERROR, why)


tracer: Tracer | None = None
"""What makes the spans of this process; None where it makes none."""


def instrument(provider: Any = None) -> None:
    """Has this process trace from now on, whatever `DQ_TRACING` says; safe twice. Also without a provider of spans: then the
    context in which something is published is carried on, and no span is made.

    Args:
        provider: a `TracerProvider`; default None: the one that is set for the process.

    Raises:
        InvalidSetting: OpenTelemetry is not installed.
    """
    global tracer
    try:
        tracer = Tracer(provider)
    except ImportError as error:
        raise InvalidSetting("OpenTelemetry is not installed: install opentelemetry-api, as dq's extra `otel` does") from error


def uninstrument() -> None:
    """Has this process trace no more; what begins from now on is not looked at anew, until `instrument` is called."""
    global tracer, _decided
    tracer, _decided = None, True


_decided = False


def look() -> None:
    """Something begins that could be traced: finds out whether it is to be. For dq's own use.

    Raises:
        InvalidSetting: `DQ_TRACING=1`, and OpenTelemetry is not installed.
    """
    if tracer is not None or _decided:
        return
    wish = os.environ.get("DQ_TRACING", "").lower()
    if (wish and wish not in _OFF) or (not wish and _has_provider()):
        instrument()


def _has_provider() -> bool:
    """Whether OpenTelemetry has been given something that makes spans. Who has not imported it has given it nothing."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return False
    return not isinstance(trace.get_tracer_provider(), (trace.ProxyTracerProvider, trace.NoOpTracerProvider))

"""`dq.aio.Publisher`: hands in records without a thread, and is told by the link's own thread when they are committed."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from dq import tracing
from dq.aio.face import Face
from dq.aio.threads import detached, in_thread
from dq.client.drafts import Draft, DraftFuture
from dq.client.flight import Flight, Key
from dq.client.place import Place, root_of
from dq.client.publisher import Publisher as SyncPublisher
from dq.client.ways import PLAIN_PRIORITY, Way
from dq.config import LIMITS
from dq.errors import DqError, PublishTimeout
from dq.model.receipt import Receipt, Receipts, StoredRange
from dq.tracing import Carried, CarriedItems, CarriedStream

# With more than this unanswered, a send might have to wait for the broker, and is made in a thread: the kernel takes
# twice that at the least.
DIRECT_BYTES = 64 * 1024
_CHUNK_BATCHES = 4
_Later = tuple[bytes, str | None, str | None, Way | None, bool, "asyncio.Future[Receipt]"]


class Publisher(Face[SyncPublisher]):
    """Publishes to one stream. Used by `async with`; its arguments are those of `dq.Publisher`.

    A record that was handed in is on its way: to cancel who waits for its receipt does not take it back.
    """

    def __init__(
        self,
        broker: Place,
        stream: str,
        batch_size: int = LIMITS.batch_records,
        linger: float | timedelta = 0.0,
        *,
        create: bool = True,
        reconnect_timeout: float | timedelta | None = None,
    ) -> None:
        options = {"create": create, "reconnect_timeout": reconnect_timeout}
        super().__init__(partial(SyncPublisher, root_of(broker), stream, batch_size, linger, **options))  # type: ignore[arg-type]
        self.stream = stream
        self._lingers = bool(linger)
        self._waiting: dict[Draft, list[tuple[asyncio.Future[Receipt], int]]] = {}
        self._later: list[_Later] = []
        self._sender: asyncio.Task[None] | None = None

    @property
    def id(self) -> str:
        """Under which its records stand in the log."""
        return self._it.id

    # --- publishing ------------------------------------------------------------------------------------------------
    async def publish(
        self,
        payload: Any,
        *,
        key: str | None = None,
        topic: str | None = None,
        name: str = "",
        headers: Mapping[str, str] | None = None,
        delay: float | timedelta | datetime | None = None,
        once: str | None = None,
        priority: int = 0,
        expires: float | timedelta | datetime | None = None,
        timeout: float | None = None,
    ) -> Receipt:
        """Publishes one record and returns once it is committed; see `dq.Publisher.publish`.

        Raises:
            As that. The `.future` of a PublishTimeout is one of asyncio's.
        """
        if tracing.tracer is not None and type(headers) is not Carried:
            call = partial(self.publish, payload, key=key, topic=topic, name=name, delay=delay, once=once, timeout=timeout)
            return await tracing.tracer.publish_async(self.stream, headers, partial(call, priority=priority, expires=expires))
        way, timeout = None, self._it.publish_timeout if timeout is None else timeout
        if delay is not None or once is not None or expires is not None or priority is not PLAIN_PRIORITY:
            way = self._it.way(delay, once, priority, expires)
        future = self._begin(payload, key, topic, name, headers, way, urgent=True)
        done, _ = await asyncio.wait((future,), timeout=timeout)
        if not done:
            error = PublishTimeout(
                f"no answer from the broker within {timeout:g} s: the record may still be stored; "
                "wait for the error's .future, or publish again and handle it twice"
            )
            error.future = future
            raise error
        return future.result()

    def submit(
        self,
        payload: Any,
        *,
        key: str | None = None,
        topic: str | None = None,
        name: str = "",
        headers: Mapping[str, str] | None = None,
        delay: float | timedelta | datetime | None = None,
        once: str | None = None,
        priority: int = 0,
        expires: float | timedelta | datetime | None = None,
    ) -> asyncio.Future[Receipt]:
        """Hands in one record and returns at once what can be awaited for its receipt.

        It never blocks and takes whatever it is given: await some of them now and then, or use `publish_many`, which waits
        for the broker by itself.

        Raises:
            InvalidPayload, InvalidSetting, RecordTooLarge: nothing was sent.
        """
        if tracing.tracer is not None and type(headers) is not Carried:
            call = partial(self.submit, payload, key=key, topic=topic, name=name, delay=delay, once=once)
            return tracing.tracer.submit(self.stream, headers, partial(call, priority=priority, expires=expires))
        way = None
        if delay is not None or once is not None or expires is not None or priority is not PLAIN_PRIORITY:
            way = self._it.way(delay, once, priority, expires)
        return self._begin(payload, key, topic, name, headers, way, urgent=not self._lingers)

    async def publish_many(self, items: Iterable[Any] | AsyncIterable[Any], *, key: Key = None) -> Receipts:
        """Publishes many records, pipelined, and returns once all are committed; see `dq.Publisher.publish_many`.

        Args:
            items: payloads or `TaskIn`, from any iterable, async or not. One that is not is iterated over in the loop's thread.
            key: one for all, or a function of the payload, which is called in another thread.

        Raises:
            As that, with `.receipts`. When it is cancelled, what `items` gave before is still published.
        """
        if tracing.tracer is not None and type(items) not in (CarriedItems, CarriedStream):
            return await tracing.tracer.publish_many_async(self.stream, items, partial(self.publish_many, key=key))
        await self._everything_sent()
        flight = _SharedFlight(self._it.flight(), key)
        size = _CHUNK_BATCHES * self._it.batch_size
        try:
            if isinstance(items, AsyncIterable):
                await _take_async(flight, items, size)
            else:
                await _take(flight, items, size)
        except asyncio.CancelledError:
            detached(flight.finish)
            raise
        except BaseException as error:
            await in_thread(flight.finish)
            if isinstance(error, DqError):
                error.receipts = flight.receipts
            raise
        await in_thread(flight.finish)
        if flight.error is not None:
            flight.error.receipts = flight.receipts
            raise flight.error
        return flight.receipts

    async def flush(self, timeout: float | None = None) -> None:
        """Sends what waits and returns once all that was handed in is answered.

        Raises:
            PublishTimeout: not all was within `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._everything_sent()
                drafts = await in_thread(self._it.outstanding)
                await until_answered(drafts)
        except TimeoutError:
            raise PublishTimeout(f"records still wait for their answer after {timeout:g} s") from None

    async def close(self) -> None:
        """Flushes and closes; safe twice. What cannot be answered within `reconnect_timeout` fails in its futures."""
        with contextlib.suppress(DqError):
            await self._everything_sent()
        await super().close()

    # --- inside ----------------------------------------------------------------------------------------------------
    def _begin(
        self,
        payload: Any,
        key: str | None,
        topic: str | None,
        name: str,
        headers: Mapping[str, str] | None,
        way: Way | None,
        *,
        urgent: bool,
    ) -> asyncio.Future[Receipt]:
        publisher = self._it
        line = publisher.line_of(payload, key, topic, name, headers, way)
        future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        full = publisher.waiting_bytes + len(line) > DIRECT_BYTES
        if self._later or self._sender is not None or full or not publisher.takes_at_once(way):
            self._later.append((line, key, topic, way, urgent, future))
            if self._sender is None:
                self._sender = asyncio.create_task(self._send_later())
        else:
            self._note(*publisher.begin(line, key, topic, way, urgent=urgent), future)
        return future

    async def _send_later(self) -> None:
        """Hands in, in a thread and in their order, those records for which a send might have to wait."""
        publisher = self._it
        try:
            while self._later:
                group, self._later = self._later, []

                def hand_in(group: list[_Later] = group) -> list[tuple[Draft, int] | DqError]:
                    return [_begun(publisher, each) for each in group]

                for begun, (*_, future) in zip(await in_thread(hand_in), group, strict=True):
                    if isinstance(begun, DqError):
                        _fail(future, begun)
                    else:
                        self._note(*begun, future)
        finally:
            self._sender = None

    async def _everything_sent(self) -> None:
        if self._sender is not None:
            await asyncio.shield(self._sender)

    def _note(self, draft: Draft, place: int, future: asyncio.Future[Receipt]) -> None:
        """A record is in a batch. One callback a batch: to wake the loop costs more than all else of a record."""
        waiting = self._waiting.get(draft)
        if waiting is None:
            waiting = self._waiting[draft] = []
            loop = future.get_loop()
            DraftFuture(draft, place).add_done_callback(lambda _: _wake(loop, partial(self._settled, draft)))
        waiting.append((future, place))

    def _settled(self, draft: Draft) -> None:
        for future, place in self._waiting.pop(draft, ()):
            if isinstance(draft.outcome, StoredRange):
                if not future.done():
                    future.set_result(DraftFuture(draft, place).result(0))
            elif draft.outcome is not None:
                _fail(future, draft.outcome)


async def until_answered(drafts: Iterable[Draft]) -> None:
    """Returns once the outcome of all these batches is known, whatever it is."""
    loop = asyncio.get_running_loop()
    for draft in drafts:
        if draft.outcome is None:
            answered: asyncio.Future[None] = loop.create_future()
            tell = partial(_set, answered)
            DraftFuture(draft, 0).add_done_callback(lambda _, tell=tell: _wake(loop, tell))  # type: ignore[misc]
            await answered


def _set(answered: asyncio.Future[None]) -> None:
    if not answered.done():
        answered.set_result(None)


def _begun(publisher: SyncPublisher, later: _Later) -> tuple[Draft, int] | DqError:
    line, key, topic, way, urgent, _ = later
    try:
        return publisher.begin(line, key, topic, way, urgent=urgent)
    except DqError as error:
        return error


def _fail(future: asyncio.Future[Receipt], error: DqError) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # one that nobody asks for is no news to the log


def _wake(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(call)


class _SharedFlight:
    """A flight that may be finished by another thread than the one that is still taking."""

    def __init__(self, flight: Flight, key: Key) -> None:
        self._flight, self._key, self._lock = flight, key, threading.Lock()

    @property
    def receipts(self) -> Receipts:
        return self._flight.receipts

    @property
    def error(self) -> DqError | None:
        return self._flight.error

    async def take(self, items: list[Any]) -> None:
        """Sends these."""

        def take() -> None:
            with self._lock:
                self._flight.take(items, self._key)

        if items:
            await in_thread(take)

    def finish(self) -> None:
        """Sends what is left and waits until all is answered."""
        with self._lock:
            self._flight.finish()


async def _take(flight: _SharedFlight, items: Iterable[Any], size: int) -> None:
    chunk: list[Any] = []
    try:
        for item in items:
            chunk.append(item)
            if len(chunk) >= size:
                full, chunk = chunk, []
                await flight.take(full)
                if flight.error is not None:
                    return
    except Exception:
        await flight.take(chunk)  # what was given before the error is published
        raise
    await flight.take(chunk)


async def _take_async(flight: _SharedFlight, items: AsyncIterable[Any], size: int) -> None:
    """A chunk is what came while the last one was being sent."""
    waiting: list[Any] = []
    shipping: asyncio.Task[None] | None = None

    async def ship() -> None:
        while waiting:
            chunk = waiting[:]
            waiting.clear()
            await flight.take(chunk)

    try:
        async for item in items:
            waiting.append(item)
            if shipping is None or shipping.done():
                if shipping is not None:
                    shipping.result()
                shipping = asyncio.create_task(ship())
            if len(waiting) >= size:
                await shipping
            if flight.error is not None:
                return
    finally:
        if shipping is not None:
            await shipping
    await ship()

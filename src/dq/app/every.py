"""Recurring work: `app.every("*/5 * * * *", ...)` publishes a record at each tick, once, however many workers run."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, tzinfo
from types import TracebackType
from typing import Any, Final, NamedTuple, Protocol, Self, TypeVar

from dq.app.config import check_seconds
from dq.app.engine import Engine
from dq.app.schedule import Schedule
from dq.app.ticks import TICK_HEADER, Held, KeepsTicks, MemoryTicks, TickStore
from dq.errors import DqError, InvalidSetting
from dq.model.names import check_name, check_new_stream
from dq.model.record import encode
from dq.model.told import about, foreign, frames_of, place_of

log = logging.getLogger("dq")
Function = TypeVar("Function", bound=Callable[..., Any])

CATCH_UP: Final = ("skip", "once", "all")
MISSED_AFTER_SECONDS: Final = 60.0
_AT_ONCE = 100
_WRONG_CLOCK_SECONDS = 3_600.0
_LOOK_SECONDS = 1.0


class Due(NamedTuple):
    """What is to be done at a look.

    Attributes:
        ticks: to be fired, in order.
        last: up to which tick all is decided then; None: there is none.
        passed: whether some were missed and are passed over.
        more: whether there is more to be fired at once.
    """

    ticks: list[float]
    last: float | None
    passed: bool
    more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Recurring:
    """A record that is published at each tick of a schedule. `App.every` makes it.

    Attributes:
        name: of the schedule, within the app.
        schedule: when.
        stream: where to.
        payload: what; a function is called with the tick (an aware datetime), None stands for the tick as ISO 8601 text.
        catch_up: what becomes of ticks that were missed: "skip", "once" or "all".
        missed_after: seconds after which a tick that nobody fired counts as missed.
        wishes: what else `publish` is told: `key`, `topic`, `name`, `headers`, `priority`, `expires`.
    """

    name: str
    schedule: Schedule
    stream: str
    payload: Any = None
    catch_up: str = "skip"
    missed_after: float = MISSED_AFTER_SECONDS
    wishes: Mapping[str, Any] = field(default_factory=dict)

    def due(self, last: float, now: float) -> Due:
        """What is due at `now`, when all up to `last` was decided."""
        newest = self.schedule.latest(now, last)
        if newest is None:
            return Due([], None, passed=False, more=False)
        limit = max(now - self.missed_after, last)
        passed, caught = False, []
        if limit > last:
            if self.catch_up == "all":
                caught = self.schedule.within(last, limit, _AT_ONCE)
                if len(caught) == _AT_ONCE:
                    return Due(caught, caught[-1], passed=False, more=True)
            else:
                missed = self.schedule.latest(limit, last)
                passed = missed is not None and self.catch_up == "skip"
                caught = [missed] if missed is not None and self.catch_up == "once" else []
        fresh = self.schedule.within(limit, now, _AT_ONCE)
        if len(fresh) == _AT_ONCE:
            return Due([*caught, *fresh], fresh[-1], passed=passed, more=True)
        return Due([*caught, *fresh], newest, passed=passed, more=False)

    def value(self, tick: float) -> Any:
        """The payload of a tick."""
        instant = datetime.fromtimestamp(tick, self.schedule.timezone)
        if self.payload is None:
            return instant.isoformat()
        return self.payload(instant) if callable(self.payload) else self.payload


def mark_of(name: str, tick: float) -> str:
    """What names a tick for ever: it stands in its record, and is its `once=` key."""
    return f"{name}@{datetime.fromtimestamp(tick, UTC).isoformat().replace('+00:00', 'Z')}"


class Recurrences:
    """The side of an `App` that has recurring work.

    Attributes:
        recurring: what `every` was told, by name.
    """

    def __init__(self) -> None:
        self.recurring: dict[str, Recurring] = {}

    def every(
        self,
        expression: str,
        *,
        name: str | None = None,
        stream: str | None = None,
        payload: Any = None,
        catch_up: str = "skip",
        timezone: str | tzinfo = "UTC",
        missed_after: float = MISSED_AFTER_SECONDS,
        **wishes: Any,
    ) -> Callable[[Function], Function]:
        """Publishes a record at each tick of a cron expression, exactly one a tick however many workers run.

        With `stream=` it is done with that. Without, it is a decorator: the function below it becomes a handler of the stream
        `every-<name>`, and gets the tick (annotate it `datetime`, or `str`).

        Args:
            expression: minute, hour, day of month, month, day of week; or six fields, with the second before them.
            name: of the schedule, by which workers know that it is the same; default: the function's, or the stream's.
            stream: where the records go.
            payload: of each record; a function is called with the tick, an aware datetime. Default None: the tick as text.
            catch_up: what becomes of ticks for which no worker ran: "skip" (default): nothing; "once": the last of them is
                fired; "all": each of them, in order.
            timezone: by whose clocks; a name of the IANA data base, default "UTC".
            missed_after: seconds after which a tick that nobody fired counts as missed, 1 or more; default 60. Before, it is
                only late, and fired.
            wishes: `key`, `topic`, `headers`, `priority`, `expires` of each record; without `stream=` also what
                `handler` takes.

        Raises:
            InvalidName, InvalidSetting, InvalidPayload: something of it cannot be, or there is a schedule of that name.
        """
        scope = sys._getframe(1).f_locals  # annotations may name what is local to the caller
        schedule = Schedule(expression, timezone)
        if catch_up not in CATCH_UP:
            raise InvalidSetting(f'catch_up is "skip", "once" or "all", not {catch_up!r}')
        check_seconds("missed_after", missed_after, 1.0)
        own = ("key", "headers", "priority", "expires", *(() if stream is None else ("topic",)))
        ways: dict[str, Any] = {wish: wishes.pop(wish) for wish in own if wish in wishes}
        if stream is not None and wishes:
            raise InvalidSetting(f"{', '.join(wishes)}: a schedule with stream= has no handler to take this")

        form = Recurring(
            name=name or stream or "", schedule=schedule, stream=stream or "", payload=payload, catch_up=catch_up,
            missed_after=missed_after, wishes=ways,
        )  # fmt: skip

        def register(function: Function) -> Function:
            if stream is not None:
                raise InvalidSetting(f"a schedule with stream={stream!r} decorates nothing: register a handler of that stream")
            known = name or str(getattr(function, "__name__", ""))
            self._add_schedule(replace(form, name=known, stream=f"every-{known}"))
            self._add_recurring(function, f"every-{known}", name=known, scope=scope, **wishes)
            return function

        if stream is not None:
            self._add_schedule(form)
        return register

    def _add_schedule(self, each: Recurring) -> None:
        check_name("schedule", each.name)
        check_new_stream(each.stream)
        if each.name in self.recurring:
            raise InvalidSetting(f"there is a schedule {each.name!r} already: give name=")
        if not callable(each.payload):
            ways = each.wishes
            encode(each.payload, 0.0, ways.get("key"), ways.get("topic"), "", ways.get("headers"))
        self.recurring[each.name] = each

    def _add_recurring(self, function: Callable[..., Any], stream: str, **wishes: Any) -> None:
        """Registers the function of a schedule as a handler."""
        raise NotImplementedError


class _Ticking(Protocol):
    """What a ticker needs of an app."""

    sink: str
    recurring: dict[str, Recurring]

    @property
    def engine(self) -> Engine:
        """What the records are published by."""


class Ticker:
    """Fires what is due; as a context manager it does so in a thread of its own.

    Args:
        app: whose recurring work it is.
        wall: seconds since 1970.
    """

    def __init__(self, app: _Ticking, wall: Callable[[], float] = time.time) -> None:
        self._app, self._wall = app, wall
        engine = app.engine
        self._engine = engine
        self._store: TickStore = engine.ticks() if isinstance(engine, KeepsTicks) else MemoryTicks()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="dq-every")

    def look(self) -> bool:
        """Fires what is due now. Returns whether there is more.

        Raises:
            Exception: what a publish raised; the other schedules had their turn, and the tick is fired by a later look.
        """
        more, failure = False, None
        for each in self._app.recurring.values():
            try:
                more = self._look_at(each) or more
            except Exception as error:
                failure = error
        if failure is not None:
            raise failure
        return more

    def next_tick(self) -> float | None:
        """When the next tick comes, by the wall clock."""
        now = self._wall()
        ticks = [each.schedule.next(now) for each in self._app.recurring.values()]
        return min((tick for tick in ticks if tick is not None), default=None)

    def _look_at(self, each: Recurring) -> bool:
        name = f"{self._app.sink}.{each.name}"
        with self._store.hold(name) as held:
            if held is None:
                return False  # another worker is at it
            now, state = self._wall(), held.state
            if state.last is None or state.last > now + _WRONG_CLOCK_SECONDS:
                if state.last is not None:
                    log.error(
                        "schedule %s was last fired at a time that is over an hour from now: it begins anew",
                        name,
                        extra=about(schedule=name),
                    )
                state.last, state.begun = now, None
                held.keep()
                return False
            if state.begun is not None:
                self._fire(each, name, held, state.begun, again=True)
            due = each.due(state.last, now)
            if due.passed:
                log.warning(
                    "schedule %s: ticks were missed while no worker ran, and are passed over", name, extra=about(schedule=name)
                )
            for tick in due.ticks:
                state.begun, state.place = tick, held.end_of(each.stream)
                held.keep()
                self._fire(each, name, held, tick)
            if due.last is not None and due.last > state.last:
                state.last = due.last
                held.keep()
            return due.more

    def _fire(self, each: Recurring, name: str, held: Held, tick: float, *, again: bool = False) -> None:
        """Publishes the record of a tick that is noted as begun, and notes that it is done."""
        mark = mark_of(name, tick)
        if not (again and held.stands(each.stream, mark)):
            headers = {**each.wishes.get("headers", {}), TICK_HEADER: mark}
            self._engine.publish(each.stream, each.value(tick), **{**each.wishes, "headers": headers, "once": mark})
        held.state.last, held.state.begun = tick, None
        held.keep()

    # --- in a thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._ended.is_set():
            more = False
            try:
                more = self.look()
            except Exception as error:
                said = foreign(error) if isinstance(error, DqError) else place_of(error)
                log.error("a tick could not be fired, and is tried again: %s", said, extra=about(error))
                log.debug("the tick's error", extra=about(error, frames=frames_of(error)))
            if not more:
                self._ended.wait(self._pause())

    def _pause(self) -> float:
        """Never for long: the wall clock may be set while it waits, and another worker may leave something behind."""
        tick = self.next_tick()
        return _LOOK_SECONDS if tick is None else min(max(tick - self._wall(), 0.001), _LOOK_SECONDS)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join(_LOOK_SECONDS)


def ticking(app: _Ticking, *, burst: bool) -> AbstractContextManager[object]:
    """What fires an app's ticks while it runs: nothing where it has none; in a burst what is due at its beginning."""
    if not app.recurring:
        return nullcontext()
    ticker = Ticker(app)
    if not burst:
        return ticker
    while ticker.look():
        pass
    return nullcontext()

"""Recurring work: which ticks there are, what becomes of missed ones, and that none is fired twice."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from dq import Damaged, InvalidName, InvalidPayload, InvalidSetting
from dq.app import App
from dq.app.dq_ticks import FileTicks
from dq.app.every import Recurring, Ticker, mark_of
from dq.app.schedule import Schedule
from dq.app.ticks import TICK_HEADER, MemoryTicks
from dq.clock import FakeClock

BERLIN = "Europe/Berlin"
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC).timestamp()
MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0


def local(*fields: int) -> float:
    return datetime(*fields, tzinfo=ZoneInfo(BERLIN)).timestamp()


def shown(ticks: list[float]) -> list[str]:
    return [datetime.fromtimestamp(tick, ZoneInfo(BERLIN)).strftime("%d %H:%M%z") for tick in ticks]


# --- which ticks there are --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "after", "ticks"),
    [
        ("30 2 * * *", (2026, 3, 28, 12), ["29 03:00+0200", "30 02:30+0200"]),  # 02:30 is left out: once, after the gap
        ("30 2 * * *", (2026, 10, 24, 12), ["25 02:30+0200", "26 02:30+0100"]),  # it comes twice: the first time alone
        ("0 * * * *", (2026, 10, 25, 1, 30), ["25 02:00+0200", "25 02:00+0100"]),  # every hour is every hour
        ("0 * * * *", (2026, 3, 29, 1, 30), ["29 03:00+0200", "29 04:00+0200"]),
    ],
)
def test_ticks_where_clocks_are_changed(expression, after, ticks):
    assert shown(Schedule(expression, BERLIN).within(local(*after), local(*after) + 5 * DAY, 2)) == ticks


@settings(max_examples=30)
@given(
    expression=some.sampled_from(
        ["*/7 * * * *", "30 2 * * *", "0 0-6/2 * * *", "*/20 1-3 * * 0", "*/50 0-9 1-3 * * *", "15 * * * *"]
    ),
    begin=some.sampled_from([local(2026, 3, 28), local(2026, 10, 24), NOON]),
    cut=some.integers(0, int(2 * DAY)),
)
def test_ticks_are_the_same_from_wherever_they_are_asked_for(expression, begin, cut):
    """Another worker begins elsewhere and must find the same ticks; so must one that looks backwards."""
    schedule = Schedule(expression, BERLIN)
    ticks = schedule.within(begin, begin + 2 * DAY, 100_000)
    assert ticks == sorted(set(ticks))
    middle = begin + cut
    assert schedule.within(middle, begin + 2 * DAY, 100_000) == [tick for tick in ticks if tick > middle]
    before = [tick for tick in ticks if tick <= middle]
    assert schedule.latest(middle, begin) == (before[-1] if before else None)


@pytest.mark.parametrize("wrong", ["", "* * * *", "61 * * * *", "* * * * * * *", "0 0 30 2 *", "every day", None])
def test_an_expression_that_is_none_is_refused(wrong):
    with pytest.raises(InvalidSetting, match=r"cron expression|never comes"):
        Schedule(wrong)


@pytest.mark.parametrize("wrong", ["Mars/Base", "../etc", "", 7])
def test_a_time_zone_that_is_none_is_refused(wrong):
    with pytest.raises(InvalidSetting, match="no time zone"):
        Schedule("* * * * *", wrong)


# --- what is due --------------------------------------------------------------------------------------------------------


def due(catch_up: str, last: float, now: float, expression: str = "0 * * * *") -> Any:
    found = Recurring(name="n", schedule=Schedule(expression), stream="s", catch_up=catch_up).due(last, now)
    return [round((tick - NOON) / HOUR, 2) for tick in found.ticks], found.passed, found.more


def test_what_is_late_by_less_than_a_minute_was_not_missed():
    for catch_up in ("skip", "once", "all"):
        assert due(catch_up, NOON - 1, NOON + 30) == ([0.0], False, False)
        assert due(catch_up, NOON, NOON + 30) == ([], False, False)


def test_missed_ticks_by_policy():
    last, now = NOON, NOON + 3.5 * HOUR
    assert due("skip", last, now) == ([], True, False)
    assert due("once", last, now) == ([3.0], False, False)
    assert due("all", last, now) == ([1.0, 2.0, 3.0], False, False)
    # one that is just due is fired whatever was missed
    assert due("skip", last, NOON + 3 * HOUR + 10) == ([3.0], True, False)
    assert due("once", last, NOON + 3 * HOUR + 10) == ([2.0, 3.0], False, False)


def test_a_year_of_missed_minutes_is_caught_up_in_parts():
    ticks, _, more = due("all", NOON, NOON + 366 * DAY, "* * * * *")
    assert (len(ticks), more) == (100, True)
    assert due("once", NOON, NOON + 366 * DAY + 30, "* * * * *")[0] == [8783.98, 8784.0]
    assert due("skip", NOON, NOON + 366 * DAY + 30, "* * * * *") == ([8784.0], True, False)


# --- firing --------------------------------------------------------------------------------------------------------------


class Book:
    """An engine that writes down what was published, with keys that count for five minutes, as a broker's do."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock, self.published, self.keys, self.fails = clock, [], {}, []
        self.store: Any = MemoryTicks()

    def publish(self, stream: str, payload: Any, *, once: str, headers: dict[str, str], **_: Any) -> str:
        before = self.fails.pop(0) if self.fails else None
        if before == "before":
            raise TimeoutError
        if self.keys.get(once, 0.0) <= self.clock.wall():
            self.keys[once] = self.clock.wall() + 300
            self.published.append((stream, payload, headers[TICK_HEADER]))
        if before == "after":
            raise TimeoutError
        return f"{stream}/0/0"

    def ticks(self) -> Any:
        return self.store


def ticker_of(book: Book, expression: str = "* * * * *", **wishes: Any) -> Ticker:
    app = App("unused")
    app.every(expression, stream="s", **wishes)
    return Ticker(SimpleNamespace(sink="w", recurring=app.recurring, engine=book), book.clock.wall)


def test_each_tick_is_published_once_by_however_many_workers():
    clock = FakeClock(NOON - 30)
    book = Book(clock)
    workers = [ticker_of(book), ticker_of(book)]
    for _ in range(100):
        for worker in workers:
            assert worker.look() is False
        clock.advance(7)
    assert [payload for _, payload, _ in book.published] == [f"2026-06-01T12:{minute:02}:00+00:00" for minute in range(12)]
    assert book.published[0][2] == "w.s@2026-06-01T12:00:00Z" == mark_of("w.s", NOON)


def test_a_worker_that_was_stopped_for_an_hour_fires_no_tick_again():
    """Keys alone would not do: they are forgotten by then."""
    clock = FakeClock(NOON - 1)
    book = Book(clock)
    slow, quick = ticker_of(book), ticker_of(book)
    quick.look()
    clock.advance(1)
    real = book.publish

    def stopped(*arguments: Any, **named: Any) -> str:  # by a signal, between its look at the clock and its publish
        book.publish = real
        for _ in range(60):
            clock.advance(MINUTE)
            quick.look()
        return real(*arguments, **named)

    book.publish = stopped
    slow.look()
    assert [payload for _, payload, _ in book.published] == ["2026-06-01T12:00:00+00:00"], "nobody fires in its place"
    quick.look()
    marks = [mark for _, _, mark in book.published]
    assert len(marks) == len(set(marks))


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_publish_without_an_answer_is_tried_again(when):
    clock = FakeClock(NOON - 1)
    book = Book(clock)
    worker = ticker_of(book)
    worker.look()
    clock.advance(2)
    book.fails = [when, when]
    for _ in range(2):
        with pytest.raises(TimeoutError):
            worker.look()
    worker.look()
    assert [mark for _, _, mark in book.published] == ["w.s@2026-06-01T12:00:00Z"]


def test_one_schedule_that_fails_holds_up_no_other():
    clock = FakeClock(NOON - 1)
    book = Book(clock)
    app = App("unused")
    app.every("* * * * *", stream="bad", payload=lambda tick: 1 / 0)
    app.every("* * * * *", stream="good", payload=lambda tick: {"hour": tick.hour}, timezone=BERLIN)
    worker = Ticker(SimpleNamespace(sink="w", recurring=app.recurring, engine=book), clock.wall)
    worker.look()
    clock.advance(1)
    with pytest.raises(ZeroDivisionError):
        worker.look()
    assert [(stream, payload) for stream, payload, _ in book.published] == [("good", {"hour": 14})]


def test_a_clock_that_was_far_ahead_does_not_end_a_schedule():
    clock = FakeClock(NOON)
    book = Book(clock)
    worker = ticker_of(book)
    clock.jump(10 * 366 * DAY)
    worker.look()
    clock.jump(-10 * 366 * DAY)
    worker.look()
    clock.advance(MINUTE)
    worker.look()
    assert [payload for _, payload, _ in book.published] == ["2026-06-01T12:01:00+00:00"]


# --- what is kept ----------------------------------------------------------------------------------------------------------


def test_the_last_tick_outlives_every_process(tmp_path: Path):
    clock = FakeClock(NOON - 1)
    book = Book(clock)
    book.store = FileTicks(SimpleNamespace(root=tmp_path))
    book.store.end_of = lambda stream: ""
    with book.store.hold("w.s") as held, FileTicks(SimpleNamespace(root=tmp_path)).hold("w.s") as other:
        assert other is None, "one at a time"
        held.state.last = NOON
        held.keep()
    with FileTicks(SimpleNamespace(root=tmp_path)).hold("w.s") as held:
        assert held.state.last == NOON
    (tmp_path / "every" / "w.s.json").write_text('{"last":"noon"}')
    with pytest.raises(Damaged, match="remove it"), book.store.hold("w.s"):
        pass


# --- what is asked for -----------------------------------------------------------------------------------------------------


def test_a_function_is_the_handler_of_its_ticks():
    app = App("unused")

    @app.every("0 3 * * *", timezone=BERLIN, max_in_flight=1)
    def nightly(tick: datetime) -> None: ...

    assert app.handlers["nightly"].streams == ("every-nightly",)
    assert app.handlers["nightly"].max_in_flight == 1
    assert app.recurring["nightly"].value(local(2026, 6, 1, 3)) == "2026-06-01T03:00:00+02:00"


@pytest.mark.parametrize(
    ("wishes", "error"),
    [
        ({"catch_up": "never"}, InvalidSetting),
        ({"missed_after": 0}, InvalidSetting),
        ({"max_in_flight": 3}, InvalidSetting),
        ({"stream": "a b"}, InvalidName),
        ({"stream": "x-dlq"}, InvalidName),
        ({"payload": {1, 2}}, InvalidPayload),
    ],
)
def test_what_cannot_be_is_refused_at_once(wishes, error):
    app = App("unused")
    with pytest.raises(error):
        app.every("* * * * *", **{"stream": "s", **wishes})
    assert app.recurring == {}


def test_two_schedules_of_one_name_and_a_decorator_beside_a_stream_are_refused():
    app = App("unused")
    decorator = app.every("* * * * *", stream="s")
    with pytest.raises(InvalidSetting, match="give name="):
        app.every("0 * * * *", stream="s")
    app.every("0 * * * *", stream="s", name="hourly")
    with pytest.raises(InvalidSetting, match="decorates nothing"):
        decorator(print)

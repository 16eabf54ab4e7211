"""`dq.testing`: an app in one process, without a disk, under a clock that is moved by hand."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from dq import App, AppConfig, InvalidSetting, Task, UsageError
from dq.app import DeadLetter, Drop, Release, Retry
from dq.clock import Clock
from dq.testing import AppTester, HandClock, MemoryEngine, dq_app

__all__ = ["dq_app"]


@dataclass
class Order:
    number: int
    amount: float = 1.0


class Shop:
    """An app as a user has it: its handlers fail as `fails` says."""

    def __init__(self, **config) -> None:
        self.app = app = App("never/opened", sink="shop", config=AppConfig(**config))
        self.paid, self.fails, self.threads = [], [], set()

        @app.handler("orders")
        def pay(order: Order, task: Task):
            self.threads.add(threading.current_thread())
            if self.fails:
                raise self.fails.pop(0)
            self.paid.append((order.number, task.attempt))
            app.publish("bills", {"number": order.number})

        @app.handler("bills", "orders")
        async def write_down(payload: dict) -> None:
            await asyncio.sleep(0)


def test_all_runs_in_the_thread_of_the_test_and_in_order(dq_app):
    shop = Shop()
    tester = dq_app(shop.app)
    for number in range(3):
        tester.publish("orders", Order(number))
    assert tester.handled == [], "nothing runs by itself"
    assert tester.run_until_idle() == 9
    assert shop.paid == [(0, 1), (1, 1), (2, 1)]
    assert shop.threads == {threading.current_thread()}
    assert [done.payload["number"] for done in tester.of("pay")] == [0, 1, 2]
    assert len(tester.of("write_down")) == 6
    assert len(tester.acked) == 9
    assert [record.payload for record in tester.published("bills")] == [{"number": 0}, {"number": 1}, {"number": 2}]
    assert tester.run_until_idle() == 0


def test_what_fails_is_tried_again_when_its_time_has_come(dq_app):
    shop = Shop()
    tester = dq_app(shop.app)
    shop.fails = [ValueError("first"), ValueError("second")]
    tester.publish("orders", {"number": 1})
    tester.run_until_idle()
    [(stream, payload, seconds)] = tester.delayed
    assert (stream, payload) == ("orders", {"number": 1})
    assert 0.04 <= seconds <= 0.06
    tester.run_until_idle()
    assert len(tester.retried) == 1, "time stands still"
    tester.clock.advance(0.061)
    tester.run_until_idle()
    assert [str(done.error) for done in tester.retried] == ["first", "second"]
    tester.run_until_settled()
    assert shop.paid == [(1, 3)]
    assert tester.delayed == []


def test_what_fails_for_good_is_a_dead_letter(dq_app):
    shop = Shop(handler_max_attempts=2)
    tester = dq_app(shop.app)
    shop.fails = [ValueError("no"), ValueError("never")]
    tester.publish("orders", {"number": 1})
    tester.publish("orders", {"price": 1})  # fits no Order
    tester.run_until_settled()
    assert [(letter.headers["dq-reason"].split(":")[0], letter.headers["dq-attempts"]) for letter in tester.dead_letters] == [
        ("the payload does not fit handler 'pay'", "1"),
        ("max_attempts", "2"),
    ]
    assert "ValueError: never" in tester.dead_letters[1].headers["dq-error"]


@pytest.mark.parametrize(("result", "where"), [(Drop(), "dropped"), (Retry(5), "retried"), (DeadLetter("no"), "dead_letters")])
def test_outcomes_are_sorted(dq_app, result, where):
    app = App("unused")

    @app.handler("s")
    def handle(payload: int):
        return result

    tester = dq_app(app)
    tester.publish("s", 1)
    tester.run_until_idle()
    assert {name: len(getattr(tester, name)) for name in ("acked", "dropped", "retried", "released", "dead_letters")} == {
        "acked": 0, "dropped": 0, "retried": 0, "released": 0, "dead_letters": 0, where: 1,
    }  # fmt: skip


def test_verbs_of_the_task_count_too(dq_app):
    app = App("unused")

    @app.handler("s")
    def handle(payload: str, task: Task) -> None:
        getattr(task, payload)()

    tester = dq_app(app)
    for verb in ("ack", "drop", "retry"):
        tester.publish("s", verb)
    tester.run_until_idle()
    assert (len(tester.acked), len(tester.dropped), len(tester.retried)) == (1, 1, 1)


def test_a_retry_may_wait_for_long(dq_app):
    app = App("unused")

    @app.handler("s")
    def handle(payload: int, task: Task):
        return Retry(3_600) if task.attempt == 1 else None

    tester = dq_app(app)
    tester.publish("s", 1)
    tester.run_until_idle()
    assert tester.delayed == [("s", 1, 3_600.0)]
    tester.clock.advance(3_601)
    tester.run_until_idle()
    assert ([done.attempt for done in tester.acked], tester.dead_letters) == ([2], [])


def test_handlers_that_go_on_for_ever_are_found_out(dq_app):
    app = App("unused")

    @app.handler("s")
    def handle(payload: int) -> None:
        app.publish("s", payload + 1)

    @app.handler("back")
    def give_back(payload: int):
        return Release()

    tester = dq_app(app)
    tester.publish("s", 0)
    with pytest.raises(UsageError, match="for ever"):
        tester.run_until_idle(100)


def test_delays_once_and_expiry_by_the_clock_of_the_test(dq_app):
    shop = Shop()
    tester = dq_app(shop.app, now=datetime(2026, 3, 1, tzinfo=UTC))
    tester.publish("orders", Order(1), delay=timedelta(days=30))
    tester.publish("orders", Order(2), delay=datetime(2026, 3, 2, tzinfo=UTC))
    tester.publish("orders", Order(3), expires=60)
    tester.clock.advance(61)
    tester.run_until_idle()
    assert shop.paid == []
    assert tester.expired == 2  # of both handlers
    tester.advance(timedelta(days=1))
    tester.run_until_idle()
    assert [number for number, _ in shop.paid] == [2]
    assert tester.run_until_settled() == 3
    assert tester.clock.now >= datetime(2026, 3, 31, tzinfo=UTC)


def test_recurring_work_is_fired_on_the_way(dq_app):
    app = App("unused")
    seen = []

    @app.every("0 3 * * *", timezone="Europe/Berlin")
    def nightly(tick: datetime) -> None:
        seen.append(tick.isoformat())

    app.every("30 * * * *", stream="hourly", payload={"do": "it"})
    tester = dq_app(app, now=datetime(2026, 3, 28, 12, tzinfo=UTC))
    tester.advance(timedelta(days=2))
    tester.run_until_idle()
    assert seen == ["2026-03-29T03:00:00+02:00", "2026-03-30T03:00:00+02:00"]
    assert len(tester.published("hourly")) == 48


def test_an_exception_comes_through_where_it_is_asked_for(dq_app):
    shop = Shop()
    tester = dq_app(shop.app, strict=True)
    shop.fails = [ValueError("seen by the test")]
    tester.publish("orders", {"number": 1})
    with pytest.raises(ValueError, match="seen by the test"):
        tester.run_until_idle()


def test_the_app_has_its_own_engine_again(dq_app):
    shop = Shop()
    with AppTester(shop.app) as tester:
        assert shop.app.engine is tester.engine
        engine = tester.engine
        tester.publish("orders", {"number": 1})
    assert shop.app._engine is None
    with pytest.raises(UsageError, match="not open"):
        tester.run_until_idle()
    # as after a restart: what waited is there
    assert dq_app(shop.app, engine=engine).run_until_idle() == 3


def test_an_app_can_run_over_the_engine_in_memory():
    """H11: `App.run`, with its threads, over an engine that is none of dq's broker."""
    app = App(MemoryEngine(Clock()), sink="w")
    done = []

    @app.handler("s")
    def handle(payload: int, task: Task) -> None:
        if task.attempt == 1 and payload == 3:
            raise ValueError("again")
        done.append(payload)

    for number in range(20):
        app.publish("s", number)
    app.run(burst=True)
    assert sorted(done) == list(range(20))


def test_what_a_clock_by_hand_refuses():
    with pytest.raises(InvalidSetting, match="no time zone"):
        HandClock(datetime(2026, 1, 1))
    with pytest.raises(InvalidSetting, match="forward"):
        HandClock().advance(-1)
    with pytest.raises(UsageError, match="by hand"):
        AppTester(App("unused"), engine=MemoryEngine(Clock()))


def test_a_plugin_of_pytest(pytester_free_run):
    """The fixtures come with `pytest_plugins = ["dq.testing"]`; a failed test leaves nothing behind that hangs."""
    done = pytester_free_run
    assert "1 failed, 1 passed" in done


@pytest.fixture
def pytester_free_run(tmp_path):
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["dq.testing"]\n')
    (tmp_path / "test_user.py").write_text(
        "from dq import App\n"
        "app = App('unused')\n"
        "@app.handler('s')\n"
        "def double(payload: int) -> None:\n"
        "    app.publish('t', payload * 2)\n"
        "def test_good(dq_app):\n"
        "    tester = dq_app(app)\n"
        "    tester.publish('s', 2)\n"
        "    tester.run_until_idle()\n"
        "    assert [record.payload for record in tester.published('t')] == [4]\n"
        "def test_bad(dq_app):\n"
        "    dq_app(app).publish('s', 2)\n"
        "    assert False\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(tmp_path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False).stdout

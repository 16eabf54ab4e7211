"""Effectively once: the effect of a handler and the key of its task are committed together, or neither is."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dq import AlreadySettled, App, BrokerManager, InvalidSetting, Task
from dq.app import Ack, DeadLetter, Drop, FileOnce, Release, Retry, SqliteOnce, Values
from dq.app.handler import Handler
from stage import Child


def delivery(number: int = 0, **more: Any) -> Any:
    fields = {"id": f"orders/0/{number}", "sink": "w.pay", "created_at": datetime(2026, 1, 1, tzinfo=UTC), "payload": 1}
    return SimpleNamespace(**{**fields, "outcome": None, "headers": {}, **more})


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    path = tmp_path / "shop.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE paid (amount INTEGER)")
    connection.close()
    return path


def total(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT COALESCE(SUM(amount), 0) FROM paid").fetchone()[0]
    finally:
        connection.close()


def paying(shop: Path, result: Any = None, **wishes: Any) -> Handler:
    def pay(amount: int, database: sqlite3.Connection) -> Any:
        database.execute("INSERT INTO paid VALUES (?)", (amount,))
        return result() if callable(result) else result

    return Handler(pay, ("orders",), once=SqliteOnce(shop, **wishes))


def test_what_was_done_is_not_done_again(shop: Path) -> None:
    handler = paying(shop)
    assert [handler.call(delivery(number)) for number in (1, 1, 2, 1)] == [Ack()] * 4
    assert total(shop) == 2
    # another process finds the keys
    assert paying(shop).call(delivery(2)) == Ack()
    assert total(shop) == 2


@pytest.mark.parametrize("result", [Retry(), Release(), DeadLetter("no")])
def test_what_is_not_done_leaves_nothing_behind(shop: Path, result: Any) -> None:
    assert paying(shop, result).call(delivery()) == result
    assert total(shop) == 0
    assert paying(shop).call(delivery()) == Ack()
    assert total(shop) == 1


def test_a_handler_that_raises_leaves_nothing_behind(shop: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        paying(shop, lambda: 1 / 0).call(delivery())
    assert total(shop) == 0
    assert paying(shop, Drop()).call(delivery()) == Drop()
    assert total(shop) == 1


def test_a_record_of_a_stream_that_was_made_anew_is_another_one(shop: Path) -> None:
    handler = paying(shop)
    handler.call(delivery())
    handler.call(delivery(created_at=datetime(2026, 1, 2, tzinfo=UTC)))
    handler.call(delivery(sink="w.other"))
    assert total(shop) == 3


def test_a_key_of_the_user_s_own(shop: Path) -> None:
    handler = paying(shop, key=lambda task: task.headers["order"])
    for number in range(3):
        handler.call(delivery(number, headers={"order": "17"}))
    assert total(shop) == 1
    with pytest.raises(TypeError, match="key of a task is a text"):
        paying(shop, key=lambda task: 17).call(delivery())


def test_the_verbs_of_the_task_wait_for_the_commit(shop: Path) -> None:
    settled = []
    given = delivery(ack=lambda: settled.append("ack"))

    def pay(amount: int, task: Task, database: sqlite3.Connection) -> None:
        database.execute("INSERT INTO paid VALUES (1)")
        task.ack()
        with pytest.raises(AlreadySettled):
            task.retry()

    handler = Handler(pay, ("orders",), once=SqliteOnce(shop))
    assert handler.call(given) == Ack()
    assert settled == []
    assert total(shop) == 1


def test_a_connection_of_the_user_s_own(shop: Path) -> None:
    connection = sqlite3.connect(shop, check_same_thread=False)

    def pay(amount: int, database: sqlite3.Connection) -> None:
        assert database is connection
        with database:  # commits: the key is committed with it
            database.execute("INSERT INTO paid VALUES (1)")

    handler = Handler(pay, ("orders",), once=SqliteOnce(connection))
    handler.call(delivery())
    handler.call(delivery())
    assert total(shop) == 1
    connection.close()


def test_values_of_its_own_file_are_committed_with_the_key(tmp_path: Path) -> None:
    store = FileOnce(tmp_path / "counts")

    def count(payload: int, values: Values) -> Any:
        values["seen"] = values.get("seen", 0) + 1
        if payload < 0:
            return Retry()
        return values.pop("gone", None)

    handler = Handler(count, ("orders",), once=store)
    for number, payload in ((0, 1), (0, 1), (1, -1), (2, 1)):
        handler.call(delivery(number, payload=payload))
    assert store.values() == {"seen": 2}
    with pytest.raises(KeyError):
        del Values(store._connection())["none"]


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    async def later(payload: int) -> None: ...

    for wrong in (
        lambda: Handler(later, ("s",), once=FileOnce(tmp_path / "f")),
        lambda: Handler(print, ("s",), once="shop.db"),
        lambda: SqliteOnce(":memory:"),
        lambda: SqliteOnce(tmp_path / "f", table="a b"),
        lambda: SqliteOnce(tmp_path / "f", key="order"),
    ):
        with pytest.raises(InvalidSetting):
            wrong()


PAYER = """
import sqlite3, sys
from dq import App
from dq.app import SqliteOnce
root, name, shop, step = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4]

class Dying(SqliteOnce):
    def commit(self, connection):
        if step == "before the commit":
            os._exit(9)
        super().commit(connection)
        if step == "after the commit":
            os._exit(9)

app = App(root, sink=name)

@app.handler(name, once=Dying(shop))
def pay(amount: int, database: sqlite3.Connection) -> None:
    if step == "before the effect":
        os._exit(9)
    database.execute("INSERT INTO paid VALUES (?)", (amount,))
    if step == "after the effect":
        os._exit(9)

app.run(burst=True)
"""


def test_a_crash_at_any_step_between_effect_and_ack_repeats_nothing(broker: BrokerManager, name: str, shop: Path) -> None:
    app = App(broker, sink=name)

    @app.handler(name, once=SqliteOnce(shop))
    def pay(amount: int, database: sqlite3.Connection) -> None:
        database.execute("INSERT INTO paid VALUES (?)", (amount,))

    steps = ("before the effect", "after the effect", "before the commit", "after the commit")
    for done, step in enumerate(steps, 1):
        # When a worker dies at that step, and another one goes on
        app.publish(name, 1)
        with Child(PAYER, broker.root, name, shop, step) as child:
            assert child.wait() == 9, child.errors.decode()
        assert total(shop) == done - 1 + (step == "after the commit"), step
        app.run(burst=True)
        # Then it was paid once
        assert total(shop) == done, step

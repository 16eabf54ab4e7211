"""What every engine of an app must do; run over dq's own broker, and over the one of `dq.testing`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dq import DqError, SettingsMismatch
from dq.app import Ack, DeadLetter, Delivery, Drop, Engine, Release, Retry, Subscription, SubscriptionSettings

SETTINGS = SubscriptionSettings(max_attempts=3, ack_grace=20.0, prefetch=100, reclaim_interval=1.0)
Subscribe = Callable[..., Subscription]


class EngineConformance:
    """Subclasses give the fixtures `engine`, and `wait`, which lets so many seconds pass."""

    @pytest.fixture
    def subscribe(self, engine: Engine, name: str) -> Any:
        opened: list[Subscription] = []

        def subscribed(
            sink: str = "a", *streams: str, settings: SubscriptionSettings = SETTINGS, **filters: Any
        ) -> Subscription:
            wish = {"topic": None, "pattern": None, **filters}
            opened.append(engine.subscribe(f"{name}.{sink}", streams or (name,), **wish, settings=settings))
            return opened[-1]

        yield subscribed
        for subscription in opened:
            subscription.close()

    def test_a_task_has_all_that_was_published_with_it(self, engine: Engine, name: str, subscribe: Subscribe) -> None:
        own = subscribe()
        id = engine.publish(name, {"a": [1, None]}, key="k", topic="t", name="N", headers={"h": "1"})
        [task] = one(own)
        assert (task.id, task.stream, task.sink) == (id, name, f"{name}.a")
        assert (task.payload, task.key, task.topic, task.name, dict(task.headers)) == (
            {"a": [1, None]},
            "k",
            "t",
            "N",
            {"h": "1"},
        )
        assert (task.attempt, task.last_error, task.outcome) == (1, None, None)
        assert task.created_at.utcoffset() == timedelta(0)
        assert isinstance(task.id, str)
        task.extend(60)
        own.settle(task, Ack())
        own.flush(5.0)
        assert empty(own)

    def test_in_order_and_no_more_than_asked_for(self, engine: Engine, name: str, subscribe: Subscribe) -> None:
        own = subscribe()
        for number in range(5):
            engine.publish(name, number)
        seen: list[Any] = []
        while len(seen) < 5:
            tasks = own.fetch(2, 5.0)
            assert 1 <= len(tasks) <= 2
            seen += [task.payload for task in tasks]
            for task in tasks:
                own.settle(task, Ack())
        assert seen == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize("verdict", [Ack(), Drop()])
    def test_what_is_settled_never_comes_again(self, engine: Engine, name: str, subscribe: Subscribe, verdict: Any) -> None:
        own = subscribe()
        engine.publish(name, 1)
        [task] = one(own)
        own.settle(task, verdict)
        own.flush(5.0)
        own.close()
        again = subscribe()
        assert empty(again)
        assert again.backlog() == 0

    def test_a_retry_counts_its_attempts_and_tells_the_error(
        self, engine: Engine, name: str, subscribe: Subscribe, wait
    ) -> None:
        own = subscribe()
        engine.publish(name, 1)
        [task] = one(own)
        own.settle(task, Retry(0.05, "boom"))
        own.flush(5.0)
        assert own.backlog() == 1
        wait(0.06)
        [task] = one(own)
        assert (task.attempt, task.last_error) == (2, "boom")
        own.settle(task, Release())
        [task] = one(own)
        assert task.attempt == 2, "a release burns none"

    def test_the_last_retry_is_a_dead_letter(self, engine: Engine, name: str, subscribe: Subscribe, wait) -> None:
        own, dead = subscribe(), subscribe("dead", f"{name}-dlq")
        id = engine.publish(name, {"n": 1}, headers={"h": "1"})
        for _ in range(3):
            [task] = one(own)
            own.settle(task, Retry(0.0, "boom"))
            wait(0.01)
        [letter] = one(dead)
        assert letter.payload == {"n": 1}
        told = {name: letter.headers[name] for name in ("h", "dq-id", "dq-sink", "dq-attempts", "dq-reason", "dq-error")}
        assert told == {
            "h": "1", "dq-id": id, "dq-sink": f"{name}.a", "dq-attempts": "3", "dq-reason": "max_attempts", "dq-error": "boom",
        }  # fmt: skip
        assert own.backlog() == 0

    def test_what_is_given_up_is_a_dead_letter_at_once(self, engine: Engine, name: str, subscribe: Subscribe) -> None:
        own, dead = subscribe(), subscribe("dead", f"{name}-dlq")
        engine.publish(name, b"\x00\xff")
        [task] = one(own)
        own.settle(task, DeadLetter("no address"))
        [letter] = one(dead)
        assert (letter.payload, letter.headers["dq-reason"], letter.headers["dq-attempts"]) == (b"\x00\xff", "no address", "1")

    def test_each_sink_gets_all_and_those_of_one_sink_share(self, engine: Engine, name: str, subscribe: Subscribe) -> None:
        first, second, other = subscribe(), subscribe(), subscribe("b")
        engine.publish(name, 1)
        engine.publish(name, 2)
        assert [task.payload for task in [*one(other, 1), *one(other, 1)]] == [1, 2]
        [task] = one(first, 1)
        [rest] = one(second, 1)
        assert {task.payload, rest.payload} == {1, 2}

    def test_what_a_consumer_leaves_goes_to_others_and_burns_no_attempt(
        self, engine: Engine, name: str, subscribe: Subscribe
    ) -> None:
        first = subscribe()
        engine.publish(name, 1)
        [_] = one(first)
        second = subscribe()
        assert empty(second)
        first.close()
        [task] = one(second)
        assert (task.payload, task.attempt) == (1, 1)

    def test_a_filter_settles_the_rest_unseen(self, engine: Engine, name: str, subscribe: Subscribe) -> None:
        exact, by_pattern = subscribe(topic="b"), subscribe("p", pattern="^[ab]$")
        for topic in ("a", "b", None, "c"):
            engine.publish(name, topic, topic=topic)
        assert [task.payload for task in one(exact)] == ["b"]
        assert sorted(task.payload for task in [*one(by_pattern, 1), *one(by_pattern, 1)]) == ["a", "b"]
        assert empty(exact)
        assert empty(by_pattern)

    def test_a_sink_keeps_its_settings(self, name: str, subscribe: Subscribe) -> None:
        subscribe()
        with pytest.raises(SettingsMismatch):
            subscribe(topic="other")

    def test_a_stop_ends_a_fetch_and_close_is_safe_twice(self, name: str, subscribe: Subscribe) -> None:
        own = subscribe()
        own.stop()
        begun = time.monotonic()
        assert own.fetch(1, 5.0) == []
        assert time.monotonic() - begun < 2.0
        own.close()
        own.close()

    def test_a_delayed_record_comes_at_its_time(self, engine: Engine, name: str, subscribe: Subscribe, wait) -> None:
        own = subscribe()
        engine.publish(name, "late", delay=0.3)
        engine.publish(name, "later", delay=timedelta(seconds=0.6))
        engine.publish(name, "now")
        assert [task.payload for task in one(own)] == ["now"]
        assert empty(own)
        wait(0.31)
        assert [task.payload for task in one(own)] == ["late"]
        wait(0.31)
        assert [task.payload for task in one(own)] == ["later"]
        engine.publish(name, "past", delay=datetime(2020, 1, 1, tzinfo=UTC))
        assert [task.payload for task in one(own)] == ["past"]

    def test_a_key_is_stored_once(self, engine: Engine, name: str, subscribe: Subscribe) -> None:
        own = subscribe()
        first = engine.publish(name, 1, once="k")
        assert engine.publish(name, 2, once="k") == first
        engine.publish(name, 3, once="l")
        assert [task.payload for task in [*one(own, 1), *one(own, 1)]] == [1, 3]
        assert empty(own)

    def test_what_has_expired_is_not_handed_out(self, engine: Engine, name: str, subscribe: Subscribe, wait) -> None:
        own = subscribe()
        engine.publish(name, "old", expires=0.05)
        engine.publish(name, "new", expires=60)
        wait(0.06)
        assert [task.payload for task in one(own)] == ["new"]
        assert empty(own)

    @pytest.mark.parametrize("wish", [{"key": 7}, {"topic": "a b"}])
    def test_what_cannot_be_published_is_refused(self, engine: Engine, name: str, wish: dict[str, Any]) -> None:
        with pytest.raises((DqError, TypeError)):
            engine.publish(name, 1, **wish)
        with pytest.raises((DqError, TypeError)):
            engine.publish(name, {1, 2})


def one(subscription: Subscription, limit: int = 10) -> Sequence[Delivery]:
    """What comes next; waits for it."""
    return subscription.fetch(limit, 5.0)


def empty(subscription: Subscription) -> bool:
    """Whether nothing comes, for a moment."""
    return not subscription.fetch(10, 0.02)

"""P12: broadcasts: told to whoever listens now, nothing stored, and the teller learns what came of it."""

from __future__ import annotations

import os
import re
import signal
import time
from datetime import UTC, datetime, timedelta

import pytest

import dq
from dq import BroadcastFailed, BroadcastResult, Listener, ListenerDropped, Signal
from dq.config import LIMITS
from dq.errors import Closed, InvalidName, InvalidPayload, InvalidSetting
from stage import Child, Threaded, pids, until


def listeners(broker: dq.Broker) -> dict[str, dict[str, object]]:
    """Who listens, as the broker knows it."""
    found = broker.stats()["consumer_broker"].get("listeners", {})
    return {id: each for id, each in found.items() if each["channels"]}


def heard(listener: Listener, count: int) -> list[Signal]:
    """The next signals of a listener."""
    return [signal for signal in (listener.get(5) for _ in range(count)) if signal is not None]


def test_where_nobody_listens_nobody_is_told(broker, name):
    for mode in ("forget", "all", "any", "best"):
        assert broker.broadcast(name, "hello", mode=mode) == BroadcastResult(told=0)


def test_every_listener_of_the_channel_hears_it_and_the_result_counts_them(broker, name):
    """P12: everyone who listens is told, and a result says how many."""
    with Listener(broker, name) as first, broker.listen(name, "another") as second, Listener(broker.root, "another") as third:
        telling = Threaded(lambda: broker.broadcast(name, {"n": 1}, topic="tea"))
        [one], [two] = heard(first, 1), heard(second, 1)
        assert telling.result() == BroadcastResult(told=2, taken=2)
        assert third.get() is None
    assert (one.channel, one.payload, one.topic) == (name, {"n": 1}, "tea")
    assert abs(datetime.now(UTC) - one.created_at) < timedelta(minutes=1)
    assert one == two


def test_a_payload_is_what_a_record_may_be(broker, name):
    with broker.listen(name) as listener:
        for payload in ({"a": [1, None]}, "text", 1.5, None, b"\x00\xff", []):
            broker.broadcast(name, payload, mode="forget")
            assert listener.get(5).payload == payload
        with pytest.raises(InvalidPayload):
            broker.broadcast(name, float("nan"))
        with pytest.raises(InvalidPayload):
            broker.broadcast(name, {1: 2})
        with pytest.raises(dq.RecordTooLarge):
            broker.broadcast(name, "x" * LIMITS.record_bytes_max)
        assert listener.get() is None


def test_nothing_is_stored_so_who_comes_later_hears_nothing(broker, name):
    """P12: without history."""
    before = broker.stats()["publisher_broker"]["streams"]
    broker.broadcast(name, "hello")
    with broker.listen(name) as late:
        assert late.get(0.1) is None
    assert broker.stats()["publisher_broker"]["streams"] == before


def test_the_signals_of_one_teller_come_in_order(broker, name):
    with broker.listen(name) as listener:
        for n in range(500):
            assert broker.broadcast(name, n, mode="forget").told == 1
        assert [signal.payload for signal in heard(listener, 500)] == list(range(500))


def test_forget_waits_for_nobody(broker, name):
    """P12: fire and forget."""
    with broker.listen(name):
        began = time.monotonic()
        assert broker.broadcast(name, 1, mode="forget") == BroadcastResult(told=1)
        assert time.monotonic() - began < 2


def test_all_raises_at_a_failure_and_the_error_has_the_result(broker, name):
    """P12: wait for all: a failure is the teller's to know."""
    taken: list[object] = []

    def breaks(signal: Signal) -> None:
        raise RuntimeError("out of tea")

    with broker.listen(name, breaks), broker.listen(name, lambda signal: taken.append(signal.payload)):
        with pytest.raises(BroadcastFailed, match=r"out of tea.*mode=\"best\"") as caught:
            broker.broadcast(name, 1)
        assert caught.value.result == BroadcastResult(2, 1, 1, reasons=("RuntimeError: out of tea",))
        # And best effort counts the same
        assert broker.broadcast(name, 2, mode="best") == BroadcastResult(2, 1, 1, reasons=("RuntimeError: out of tea",))
    assert taken == [1, 2]


def test_a_listener_that_does_not_answer_in_time_is_missed(broker, name):
    with broker.listen(name), broker.listen(name, lambda signal: None):
        with pytest.raises(BroadcastFailed, match="did not answer in time") as caught:
            broker.broadcast(name, 1, timeout=0.1)
        assert caught.value.result == BroadcastResult(told=2, taken=1, missed=1)
        assert broker.broadcast(name, 2, mode="best", timeout=timedelta(seconds=0.1)) == BroadcastResult(2, 1, missed=1)


def test_any_returns_with_the_first(broker, name):
    """P12: wait for any; the other listener never answers."""
    with broker.listen(name), broker.listen(name, lambda signal: None):
        result = broker.broadcast(name, 1, mode="any", timeout=30)
        assert (result.told, result.taken, result.missed) == (2, 1, 0)


def test_any_raises_when_nobody_took_it(broker, name):
    with broker.listen(name):
        with pytest.raises(BroadcastFailed) as caught:
            broker.broadcast(name, 1, mode="any", timeout=0.1)
        assert caught.value.result == BroadcastResult(told=1, missed=1)


def test_a_signal_in_a_loop_is_taken_when_the_next_one_is_asked_for(broker, name):
    with broker.listen(name) as listener:
        loop = iter(listener)
        telling = Threaded(lambda: broker.broadcast(name, 1))
        assert next(loop).payload == 1
        until(lambda: listeners(broker)[listener.id]["unanswered"] == 1)
        assert telling.running
        broker.broadcast(name, 2, mode="forget")
        assert next(loop).payload == 2
        assert telling.result() == BroadcastResult(told=1, taken=1)


def test_a_loop_that_raises_within_the_with_of_its_listener_has_failed(broker, name):
    def break_down() -> None:
        with broker.listen(name) as listener:
            for signal in listener:
                raise LookupError(signal.payload)

    loop = Threaded(break_down)
    until(lambda: listeners(broker))
    result = broker.broadcast(name, "lost", mode="best")
    assert result == BroadcastResult(told=1, failed=1, reasons=("LookupError: lost",))
    with pytest.raises(LookupError):
        loop.result()


def test_a_listener_that_fails_three_times_in_a_row_is_dropped(broker, name):
    """P12: subscribers that keep failing are dropped."""
    with broker.listen(name) as bad, broker.listen(name, lambda signal: None):
        loop = iter(bad)
        for n in (1, 2, 0, 1, 2, 3):  # one that it takes in between begins the count anew
            telling = Threaded(lambda: broker.broadcast(name, n, mode="best"))  # noqa: B023
            signal = next(loop)
            if signal.payload:
                bad.fail(f"reason {signal.payload}")
            else:
                broker.broadcast(name, 9, mode="forget")
                assert next(loop).payload == 9
                bad.fail("nine")
                bad.fail("which counts once")
                broker.broadcast(name, 0, mode="forget")
                assert next(loop).payload == 0
                broker.broadcast(name, 9, mode="forget")
                assert next(loop).payload == 9
                assert bad.get() is None
            telling.result()
        with pytest.raises(ListenerDropped, match=r"failed 3 times in a row.*reason 3.*listen anew"):
            next(loop)
        with pytest.raises(ListenerDropped):
            bad.get()
        assert broker.broadcast(name, 4) == BroadcastResult(told=1, taken=1)


def test_a_function_that_keeps_failing_ends_alone(broker, name, caplog):
    def breaks(signal: Signal) -> None:
        raise ValueError(signal.payload)

    with broker.listen(name, breaks):
        for n in range(3):
            assert broker.broadcast(name, n, mode="best").failed == 1
        assert broker.broadcast(name, 3) == BroadcastResult(told=0)
        until(lambda: "failed 3 times in a row" in caplog.text)


def test_a_listener_that_does_not_read_costs_itself_alone(broker, name):
    """P12 better: what waits for it is bounded; then it is dropped, and learns why."""
    with broker.listen(name) as lazy, broker.listen(name, lambda signal: None):
        for n in range(LIMITS.signals_waiting_max):
            assert broker.broadcast(name, n, mode="forget").told == 2
        result = broker.broadcast(name, -1, mode="best")
        assert (result.told, result.taken, result.failed) == (2, 1, 1)
        assert broker.broadcast(name, -2).told == 1
        with pytest.raises(ListenerDropped, match="did not read"):
            until(lambda: lazy.get() is None)


def test_a_topic_or_a_pattern_chooses(broker, name):
    """P12, S7: by exact topic, or by a regular expression on it."""
    with (
        broker.listen(name, topic="tea") as tea,
        broker.listen(name, pattern="^t") as early,
        Listener(broker, name, pattern=re.compile("A$", re.IGNORECASE)) as late,
    ):
        told = [broker.broadcast(name, topic, topic=topic, mode="best", timeout=0.1).told for topic in ("tea", "toast", "milk")]
        assert broker.broadcast(name, "none") == BroadcastResult(told=0)
        assert told == [3, 1, 0]
        assert [each.payload for each in heard(tea, 1)] == ["tea"]
        assert [each.payload for each in heard(early, 2)] == ["tea", "toast"]
        assert [each.payload for each in heard(late, 1)] == ["tea"]


def test_a_listener_that_dies_has_failed(broker, name):
    code = "import dq\nwith dq.Listener(*sys.argv[1:]) as listener:\n say(1)\n for signal in listener: say(2), heard()"
    with Child(code, broker.root, name) as child:
        child.hear()
        telling = Threaded(lambda: broker.broadcast(name, 1, mode="best"))
        child.hear()
        child.kill()
        assert telling.result() == BroadcastResult(1, failed=1, reasons=("a listener left before it had taken it",))
    assert broker.broadcast(name, 1).told == 0


def test_listeners_and_tellers_survive_the_broker(dq_broker):
    """P12: they come again by themselves; what was said meanwhile is lost, by definition."""
    with dq_broker.listen("news") as listener, dq_broker.listen("news"):
        dq_broker.broadcast("news", 1, mode="forget")
        telling = Threaded(lambda: dq_broker.broadcast("news", 2))
        until(lambda: listeners(dq_broker)[listener.id]["unanswered"] == 2)
        os.kill(pids(dq_broker)[1], signal.SIGKILL)
        with pytest.raises(dq.BrokerLost, match="who was told is not known"):
            telling.result()
        until(lambda: len(listeners(dq_broker)) == 2)
        assert dq_broker.broadcast("news", 3, mode="forget").told == 2
        assert [each.payload for each in heard(listener, 3)] == [1, 2, 3]
        until(lambda: listeners(dq_broker)[listener.id]["unanswered"] == 0)


def test_stop_ends_the_loop_and_a_closed_listener_is_refused(broker, name):
    listener = broker.listen(name)
    loop = Threaded(lambda: [signal.payload for signal in listener])
    broker.broadcast(name, 1, mode="forget")
    listener.stop()
    assert loop.result() in ([], [1])
    listener.close()
    listener.close()
    with pytest.raises(Closed):
        listener.fail("late")


def test_what_cannot_be_meant_is_refused(broker, name):
    with pytest.raises(InvalidSetting, match=r"'forget', 'all', 'any', 'best'"):
        broker.broadcast(name, 1, mode="some")
    with pytest.raises(InvalidName):
        broker.broadcast("../x", 1)
    with pytest.raises(InvalidName):
        broker.broadcast(name, 1, topic="a b")
    with pytest.raises(InvalidSetting, match="timeout"):
        broker.broadcast(name, 1, timeout=-1)
    with pytest.raises(InvalidSetting, match="needs a channel"):
        broker.listen()
    with pytest.raises(InvalidSetting, match="regular expression"):
        broker.listen(name, pattern="(")
    with pytest.raises(InvalidName):
        broker.listen("a/b")


def test_a_handle_that_was_closed_tells_nothing(broker, name):
    handle = dq.connect(broker.root)
    handle.broadcast(name, 1)
    handle.close()
    with pytest.raises(Closed):
        handle.broadcast(name, 1)

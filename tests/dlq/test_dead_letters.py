"""`broker.dlq(stream)`: what was given up, looked at, replayed for the sink that gave it up, or thrown away."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dq import Consumer, InvalidSetting, Reader, UnknownRecord, UnknownSink, UnknownStream
from stage import drain, until_settled


def give_up(broker, stream: str, sink: str, **options) -> None:
    """A consumer of a sink at which all that is not "good" fails until it is given up."""
    with (
        Consumer(broker, stream, sink=sink, max_attempts=2, **options) as consumer,
        until_settled(broker, sink, consumer),
    ):
        for task in consumer:
            if task.payload == "good":
                task.ack()
                continue
            try:
                with task:
                    fail(task.payload)
            except ValueError:
                pass


def fail(payload: object) -> None:
    raise ValueError(f"cannot do {payload}")


def taken(broker, sink: str) -> list:
    return [(task.payload, task.attempt, task.headers, task.key) for task in drain(broker, sink=sink)]


def test_a_dead_letter_says_all_of_its_past(broker, name) -> None:
    """H: original id, sink, attempts, reason, exception type, traceback, times, consumer."""
    before = datetime.now(UTC)
    broker.publish(name, "bad", key="k", topic="t", name="n", headers={"h": "1"})
    give_up(broker, name, name)
    [letter] = broker.dlq(name)
    assert (letter.id, letter.original_id, letter.stream) == (f"{name}-dlq/0/0", f"{name}/0/0", name)
    assert (letter.payload, letter.key, letter.topic, letter.name, letter.headers) == ("bad", "k", "t", "n", {"h": "1"})
    death = letter.death
    assert (death.sink, death.attempts, death.reason) == (name, 2, "max_attempts")
    assert (death.error, death.error_type) == ("ValueError: cannot do bad", "ValueError")
    assert "in fail" in death.traceback
    assert death.consumer.startswith("c-")
    assert before <= letter.published_at <= death.at <= datetime.now(UTC)
    assert letter.history == ()


def test_they_are_listed_by_what_they_say(broker, name) -> None:
    for payload in ("a", "b", "good", "c"):
        broker.publish(name, payload)
    give_up(broker, name, f"{name}-one")
    give_up(broker, name, f"{name}-two")
    letters = broker.dlq(name)
    assert len(letters) == letters.count() == 6
    assert [each.id for each in letters.list(2)] == [f"{name}-dlq/0/0", f"{name}-dlq/0/1"]
    assert {each.death.sink for each in letters.list(sink=f"{name}-two")} == {f"{name}-two"}
    assert letters.count(error="cannot do a") == 2
    assert letters.count(reason="max") == 6
    assert letters.count(reason="consumer") == 0
    assert letters.count(since=timedelta(hours=1)) == 6
    assert letters.count(since=datetime.now(UTC) + timedelta(hours=1)) == 0
    assert letters.count(match=lambda each: each.payload == "b") == 2
    with pytest.raises(InvalidSetting):
        letters.list(-1)
    with pytest.raises(InvalidSetting):
        next(letters.list(since=3))  # type: ignore[arg-type]


def test_a_stream_in_which_nothing_was_given_up_has_none(broker, name) -> None:
    assert [*broker.dlq(name)] == []
    with pytest.raises(UnknownRecord):
        broker.dlq(name).show(f"{name}-dlq/0/0")
    assert broker.dlq(name).replay() == broker.dlq(name).discard() == 0


def test_a_replay_reaches_only_the_sink_that_gave_it_up(broker, name) -> None:
    broker.publish(name, "bad", key="k", headers={"h": "1"})
    broker.sink(f"{name}-other", name)
    assert [payload for payload, *_ in taken(broker, f"{name}-other")] == ["bad"]
    give_up(broker, name, name)
    [letter] = broker.dlq(name)
    assert broker.dlq(name).replay(letter.id) == 1
    assert [*broker.dlq(name)] == []
    [(payload, attempt, headers, key)] = taken(broker, name)
    assert (payload, attempt, headers["h"], key) == ("bad", 1, "1", "k")
    assert taken(broker, f"{name}-other") == []
    with Reader(broker, name, start="oldest", follow=False) as reader:
        assert [record.payload for record in reader] == ["bad"]


def test_a_second_death_tells_of_the_first(broker, name) -> None:
    broker.publish(name, "bad")
    give_up(broker, name, name)
    broker.dlq(name).replay()
    give_up(broker, name, name)
    [letter] = broker.dlq(name)
    assert letter.original_id == f"{name}/0/1"
    assert [(death.attempts, death.error) for death in (*letter.history, letter.death)] == [
        (2, "ValueError: cannot do bad"), (2, "ValueError: cannot do bad"),
    ]  # fmt: skip
    assert letter.history[0].at < letter.death.at
    assert letter.headers == {}


def test_a_replay_that_is_interrupted_and_done_again_gives_no_second_record(broker, name, monkeypatch) -> None:
    broker.publish(name, "bad")
    give_up(broker, name, name)
    letters = broker.dlq(name)
    with monkeypatch.context() as patch:
        patch.setattr(type(letters), "_remove", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            letters.replay()
    assert letters.count() == 1
    assert letters.replay() == 1
    assert [payload for payload, *_ in taken(broker, name)] == ["bad"]
    assert letters.count() == 0


def test_what_cannot_be_replayed_is_refused_and_stays(broker, name) -> None:
    broker.publish(name, "bad")
    give_up(broker, name, name)
    letters = broker.dlq(name)
    [letter] = letters
    for wrong in ("nothing", f"{name}/0/0", f"{name}-dlq/0/9"):
        with pytest.raises(UnknownRecord):
            letters.replay(letter.id, wrong)
    with pytest.raises(InvalidSetting):
        letters.replay(letter.id, sink=name)
    broker.sink(name).destroy()
    with pytest.raises(UnknownSink, match="nothing was done"):
        letters.replay()
    broker.stream(name).destroy()
    with pytest.raises(UnknownStream, match="nothing was done"):
        letters.replay()
    assert letters.count() == 1
    assert letters.discard(letter.id) == 1
    assert letters.count() == 0


def test_bytes_and_lines_that_are_no_json_come_back_as_they_were(broker, name) -> None:
    broker.publish(name, b"\x00\xff")
    give_up(broker, name, name)
    assert broker.dlq(name).replay() == 1
    assert [payload for payload, *_ in taken(broker, name)] == [b"\x00\xff"]


def test_last_error_is_one_line_and_only_the_last_attempt_sends_a_traceback(broker, name) -> None:
    broker.publish(name, "x")
    with Consumer(broker, name, sink=name, max_attempts=3, idle_timeout=1) as consumer:
        for task in consumer:
            if task.attempt < 3:
                assert task.last_error == (None if task.attempt == 1 else "first line second line")
                task.retry(after=0, error="first line\nsecond line", traceback="far too long " * 1_000)
            else:
                task.dead_letter("no use", error="KeyError: 'x'", traceback="line\n" * 5_000)
    [letter] = broker.dlq(name)
    assert (letter.death.reason, letter.death.error, letter.death.error_type) == ("no use", "KeyError: 'x'", "KeyError")
    assert 2_900 <= len(letter.death.traceback) <= 3_100


@pytest.mark.parametrize("odd", ["junk", "[1]", '[{"at": "x"}]', '[{"at": 1e300}]', '{"at": 1}'])
def test_what_a_publisher_calls_as_dq_calls_its_history_is_none(broker, name, odd) -> None:
    """One record with such a header would else keep all dead letters of its stream from being listed."""
    broker.publish(name, "bad", headers={"dq-history": odd, "dq-mine": "kept"})
    with Consumer(broker, name, sink=name, idle_timeout=0.3) as consumer:
        for task in consumer:
            task.dead_letter("no")
    [letter] = broker.dlq(name)
    assert (letter.history, letter.headers) == ((), {"dq-mine": "kept"})
    assert broker.dlq(name).replay() == 1
    assert [headers["dq-mine"] for _, _, headers, _ in taken(broker, name)] == ["kept"]


def test_a_replay_keeps_the_priority(broker, name) -> None:
    broker.stream(name, buckets=2, priorities=3)
    first = broker.publish(name, "bad", key="k", priority=2)
    with Consumer(broker, name, sink=name, idle_timeout=0.3) as consumer:
        for task in consumer:
            task.dead_letter("no")
    broker.dlq(name).replay()
    with Consumer(broker, sink=name, idle_timeout=0.3) as consumer:
        [again] = [(task.bucket, task.ack())[0] for task in consumer]
    assert again == int(first.id.split("/")[1]) >= 4


def test_what_nobody_gave_up_is_no_dead_letter(broker, name) -> None:
    broker.publish(name, "bad")
    give_up(broker, name, name)
    broker.publish(f"{name}-dlq", "put there by hand")
    assert [letter.payload for letter in broker.dlq(name)] == ["bad"]
    assert broker.dlq(name).replay() == 1
    with pytest.raises(UnknownRecord):
        broker.dlq(name).show(f"{name}-dlq/0/1")


def test_a_replay_is_no_duplicate_of_one_from_a_stream_that_is_gone(broker, name) -> None:
    """The stream of dead letters was destroyed: the next dead letter has the id of the first, and is another record."""
    for payload in ("first", "second"):
        broker.publish(name, payload)
        give_up(broker, name, name)
        assert [letter.id for letter in broker.dlq(name)] == [f"{name}-dlq/0/0"]
        assert broker.dlq(name).replay() == 1
        assert [payload for payload, *_ in taken(broker, name)] == [payload]
        broker.stream(f"{name}-dlq").destroy()


def test_a_sink_that_left_the_stream_gets_no_replay(broker, name) -> None:
    broker.publish(name, "bad")
    broker.sink(name, name, f"{name}-beside", max_attempts=2)
    give_up(broker, name, name)
    broker.sink(name).remove_stream(name)
    with pytest.raises(UnknownSink, match="nothing was done"):
        broker.dlq(name).replay()
    assert broker.dlq(name).count() == 1
    broker.sink(name).add_stream(name, start="newest")
    assert broker.dlq(name).replay() == 1
    assert [payload for payload, *_ in taken(broker, name)] == ["bad"]


def test_what_was_trimmed_is_an_unknown_dead_letter(broker, name) -> None:
    for payload in ("a", "b"):
        broker.publish(name, payload)
        give_up(broker, name, name)  # one after the other: which of two that are tried again fails last is by chance
    broker.stream(f"{name}-dlq").trim(max_records=1)
    with pytest.raises(UnknownRecord, match="replayed or discarded"):
        broker.dlq(name).show(f"{name}-dlq/0/0")
    assert [letter.payload for letter in broker.dlq(name)] == ["b"]

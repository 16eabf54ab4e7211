"""`dq.testing`: a task by hand does what a task does, and a broker is a broker."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dq import AlreadySettled, InvalidPayload, Outcome, Task
from dq.testing import task


def handler(letter: Task) -> None:
    """What a user would write."""
    if not letter.payload["to"]:
        letter.dead_letter("no address")
    elif letter.attempt > 2:
        letter.drop()
    else:
        with letter:
            letter.extend(60, note="looking up")
            letter.payload["to"].index("@")


def test_a_handler_is_tested_without_a_broker():
    good, bad, empty, old = task({"to": "a@b"}), task({"to": "ab"}), task({"to": ""}), task({"to": "ab"}, attempt=3)
    handler(good)
    with pytest.raises(ValueError, match="substring"):
        handler(bad)
    handler(empty)
    handler(old)
    assert [letter.outcome for letter in (good, bad, empty, old)] == ["ack", "retry", "dead_letter", "drop"]
    assert bad.error == "ValueError: substring not found"
    assert empty.reason == "no address"
    assert good.notes == ["looking up"]


def test_a_task_by_hand_is_a_task_with_all_its_fields():
    made = task(
        {"a": (1, 2)}, 3, "k", "t", {"h": "1"}, "emails", name="N", bucket=2, offset=7, sink="s", consumer="c", publisher="p",
        last_error="e", ack_grace=timedelta(seconds=60),
    )  # fmt: skip
    assert isinstance(made, Task)
    assert (made.payload, made.attempt, made.key, made.topic, made.headers) == ({"a": [1, 2]}, 3, "k", "t", {"h": "1"})
    assert (made.id, made.stream, made.bucket, made.offset, made.name) == ("emails/2/7", "emails", 2, 7, "N")
    assert (made.sink, made.consumer, made.publisher, made.last_error) == ("s", "c", "p", "e")
    assert abs((made.created_at - datetime.now(UTC)).total_seconds()) < 5
    assert 50 < (made.deadline - made.started).total_seconds() < 70
    assert task(b"raw").payload == b"raw"


@pytest.mark.parametrize("verb", ["ack", "drop", "release", "retry"])
def test_each_verb_tells_its_outcome(verb):
    made = task(1)
    assert made.outcome is None
    getattr(made, verb)()
    assert made.outcome == Outcome(verb)
    with pytest.raises(AlreadySettled):
        made.ack()


def test_what_the_verbs_said_can_be_read():
    made = task(1)
    made.extend(5)
    made.extend(timedelta(seconds=7), note="half")
    made.retry(after=timedelta(seconds=3), error="later")
    assert made.extensions == [(5.0, None), (7.0, "half")]
    assert (made.after, made.error, made.reason) == (3.0, "later", "")
    waited = task(1)
    waited.ack(wait=True)
    assert waited.outcome == Outcome.ACK


@pytest.mark.parametrize("wrong", [{"attempt": 0}, {"attempt": True}, {"bucket": -1}, {"offset": "1"}])
def test_numbers_that_no_task_has_are_refused(wrong):
    with pytest.raises(ValueError, match="attempt counts from 1"):
        task(1, **wrong)


def test_what_could_not_be_published_is_refused():
    with pytest.raises(InvalidPayload):
        task({1, 2})
    with pytest.raises(InvalidPayload):
        task(1, key=7)


def test_the_fixture_is_a_real_broker_in_a_directory_of_the_test(dq_broker, tmp_path):
    assert dq_broker.root.parent == tmp_path
    assert dq_broker.publish("emails", 1).id == "emails/0/0"

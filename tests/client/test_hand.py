"""What a consumer holds, without a broker."""

from __future__ import annotations

import time

import orjson

from dq.client.hand import Hand, Sleeper
from dq.client.task import Task
from dq.model.event import Event, EventOwner, EventType


class Nobody(Sleeper):
    sink, consumer_id, sleeping = "sink", "c-1", False


def a_lease(number: int, count: int) -> Event:
    body = b"".join(orjson.dumps({"at": 1.0, "payload": n}) + b"\n" for n in range(count))
    fields = {"lease": number, "stream": "s", "bucket": 0, "first": 10, "count": count, "publishers": [[count, "p-1"]]}
    return Event(EventType.TASK, EventOwner.CONSUMER_BROKER, fields, bytearray(body))


def work_off(hand: Hand) -> None:
    while hand.refill(0.0):
        for fields, lease, offset in hand.ready:
            Task(lease, offset, fields).ack()


def test_a_lease_is_claimed_until_the_broker_has_confirmed_its_acks():
    # Given a lease that was worked off, whose acks are sent and not confirmed
    nobody = Nobody()
    hand = Hand(nobody, nobody, None)
    hand.take(a_lease(7, 5))
    work_off(hand)
    [ack] = hand.take_events()
    assert ack["ranges"] == [[7, 10, 15]]
    assert hand.empty
    # Then it is claimed from a new broker: its records must not go to others before the ack is sent again
    assert hand.lease_numbers == [7]
    # Until it is confirmed
    hand.confirmed(ack["number"])
    assert hand.lease_numbers == []


def test_a_confirmation_counts_for_all_that_was_sent_before():
    nobody = Nobody()
    hand = Hand(nobody, nobody, None)
    for number in (1, 2, 3):
        hand.take(a_lease(number, 2))
        work_off(hand)
        hand.take_events()
    hand.confirmed(2)
    assert hand.lease_numbers == [3]
    assert hand.unconfirmed


def test_who_waits_for_a_confirmation_asks_for_it_now():
    nobody = Nobody()
    hand = Hand(nobody, nobody, None)
    hand.take(a_lease(1, 2))
    work_off(hand)
    [_, last] = hand.take_events(now=True)
    assert last["now"] is True
    # And where nothing is open, nothing is asked
    hand.confirmed(last["number"])
    assert hand.take_events(now=True) == []


def test_while_a_task_runs_long_nothing_is_held_and_nothing_asked_for():
    # Given a hand in which one task runs long, and the rest waits
    nobody = Nobody()
    hand = Hand(nobody, nobody, 10)
    assert hand.credit() == 10
    hand.take(a_lease(3, 4))
    assert hand.refill(0.0)
    fields, lease, offset = next(hand.ready)
    running = Task(lease, offset, fields)
    # When that is seen
    hand.withdraw()
    hand.slow()
    # Then the rest is given back, and no more is asked for
    assert [(event["outcome"], event["ranges"]) for event in hand.take_events()] == [("release", [[3, 11, 14]])]
    assert hand.waiting == 0
    assert hand.credit() == 0
    # Until the next task is wanted
    running.ack()
    assert not hand.refill(5.0)
    assert hand.credit() == 10


def test_what_has_expired_by_the_time_it_would_be_handed_out_is_settled_as_that():
    nobody = Nobody()
    hand = Hand(nobody, nobody, None)
    event, soon = a_lease(7, 8), time.time() + 0.05
    over = {1: 5.0, 2: time.time() - 1, 4: soon, 7: 5.0}
    lines = [orjson.dumps({"at": 1.0, "payload": n, "expires": over.get(n, time.time() + 60)}) for n in range(8)]
    lines[3], lines[6] = b'{"at":1.0,"payload":3}', b'{"at":1.0,"payload":6,"expires":"no time"}'
    hand.take(Event(event.type, event.owner, {**event.fields, "expires": True}, bytearray(b"\n".join(lines) + b"\n")))
    given = []
    while hand.refill(0.0):
        for fields, lease, offset in hand.ready:
            given.append(fields["payload"])
            Task(lease, offset, fields).ack()
            if fields["payload"] == 3:
                time.sleep(max(soon - time.time(), 0))  # the next one was in time when it came
    assert given == [0, 3, 5, 6]
    expired, acked = hand.take_events()
    assert (expired["expired"], expired["ranges"]) == (True, [[7, 11, 13], [7, 14, 15], [7, 17, 18]])
    assert (acked.get("expired"), acked["ranges"]) == (None, [[7, 10, 11], [7, 13, 14], [7, 15, 17]])
    assert hand.empty
    assert hand.lease_numbers == [7]  # until both are confirmed


def test_nothing_is_looked_at_in_a_lease_where_nothing_expires_and_nothing_said_of_one_without_acks():
    nobody = Nobody()
    hand = Hand(nobody, nobody, None)
    event = a_lease(1, 1)
    line = bytearray(b'{"at":1.0,"payload":0,"expires":5.0}\n')
    hand.take(Event(event.type, event.owner, event.fields, line[:]))
    assert hand.refill(0.0)
    assert isinstance(hand.ready, zip)
    assert [fields["payload"] for fields, _, _ in hand.ready] == [0]
    hand.no_ack = True
    hand.take(Event(event.type, event.owner, {**event.fields, "lease": 2, "expires": True}, line[:]))
    assert hand.refill(0.0)
    assert list(hand.ready) == []
    assert hand.take_events() == []


def test_a_lease_that_was_not_kept_is_not_said_to_have_expired():
    nobody = Nobody()
    hand = Hand(nobody, nobody, None)
    event = a_lease(1, 2)
    lines = bytearray(b'{"at":1.0,"payload":0,"expires":5.0}\n' * 2)
    hand.take(Event(event.type, event.owner, {**event.fields, "expires": True}, lines))
    assert hand.refill(0.0)
    assert hand.resume([]) == []
    assert list(hand.ready) == []
    assert hand.take_events() == []

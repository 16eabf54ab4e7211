"""Who has what in hand, and taking it back: no attempt is burned, others get it, and what its holder still says is late."""

import pytest

from dq.core.ranges import RangeSet
from dq.core.states import State
from dq.errors import InUse

EMAILS = ("emails", 0)
NEWS = ("news", 0)


def records(*offsets, shard=EMAILS):
    return {shard: RangeSet.of((offset, offset + 1) for offset in offsets)}


def test_a_record_taken_back_goes_to_another_consumer_at_the_same_attempt(make_desk):
    desk = make_desk()
    desk.commit(3)
    desk.join("a", credit=9)
    first = desk.take()
    assert desk.core.holders.take_back(records(1)) == 1
    desk.join("b", credit=9)
    again = desk.take()
    assert (again.consumer, again.range, again.attempt) == ("b", (1, 2), 1)
    desk.ack(first, (0, 1), (2, 3))
    assert desk.ack(again) == 1
    assert desk.floor == 3


def test_what_its_holder_says_afterwards_settles_nothing_twice(make_desk):
    desk = make_desk()
    desk.commit(1)
    desk.join("a", credit=1)
    first = desk.take()
    desk.core.holders.take_back(records(0))
    desk.join("b", credit=1)
    again = desk.take()
    assert desk.ack(again) == 1
    assert desk.ack(first) == 0
    stats = desk.core.stats()
    assert (stats.settled, stats.late_acks) == (1, 1)


def test_an_ack_that_comes_before_anybody_else_has_it_counts_as_after_an_expired_lease(make_desk):
    desk = make_desk()
    desk.commit(1)
    desk.join("a", credit=1)
    first = desk.take()
    desk.core.holders.take_back(records(0))
    assert desk.ack(first) == 1
    desk.join("b", credit=1)
    assert desk.take() is None


def test_its_holder_gets_nothing_more_until_its_code_goes_on(make_desk):
    """It may hang: then the record would wait behind the very task that it was taken from."""
    desk = make_desk()
    desk.commit(3)
    desk.join("a", credit=5)
    first = desk.take(2)
    desk.core.holders.take_back(records(0))
    assert desk.take() is None
    desk.core.renew("a", [first.lease], desk.now)  # its client lives, which says nothing of its code
    assert desk.take() is None
    desk.ack(first, (1, 2))
    assert [taken.range for taken in desk.take_all()] == [(0, 1), (2, 3)]


@pytest.mark.parametrize("word", ["ack", "retry", "release", "grant"])
def test_whatever_shows_that_its_code_goes_on_counts(make_desk, word):
    desk = make_desk()
    desk.commit(3)
    desk.join("a", credit=5)
    first = desk.take(1)
    desk.core.holders.take_back(records(0))
    if word == "ack":
        desk.ack(first)
    elif word == "retry":
        desk.retry(first)
    elif word == "release":
        desk.core.release("a", first.lease, [first.range], desk.now)
    else:
        desk.core.grant("a", 1)
    assert desk.take() is not None


def test_credit_that_a_consumer_withdraws_meanwhile_does_not_come_back(make_desk):
    desk = make_desk()
    desk.commit(3)
    desk.join("a", credit=5)
    first = desk.take(1)
    desk.core.holders.take_back(records(0))
    desk.core.withdraw("a")
    desk.ack(first)
    assert desk.take() is None
    desk.core.grant("a", 1)
    assert desk.take(9).range == (1, 2)


def test_all_that_a_consumer_has_comes_back(make_desk):
    desk = make_desk(shards=[EMAILS, NEWS])
    desk.commit(3)
    desk.commit(2, NEWS)
    desk.join("a", credit=9)
    desk.take_all()
    assert desk.core.holders.take_all_back("a") == 5
    assert desk.core.holders.take_all_back("a") == desk.core.holders.take_all_back("nobody") == 0
    assert desk.core.holders.count() == 0
    desk.join("b", credit=9)
    assert sorted(taken.offer.shard for taken in desk.take_all()) == [EMAILS, NEWS]


def test_a_suspect_that_is_taken_back_waits_to_be_leased_alone(make_desk):
    desk = make_desk()
    desk.commit(1)
    desk.join("a", credit=1)
    desk.take()
    desk.die("a")
    desk.join("b", credit=1)
    assert desk.take().offer.alone
    assert desk.core.holders.take_back(records(0)) == 1
    assert desk.core._book.ledgers[EMAILS].state_of(0) is State.SUSPECT
    desk.join("c", credit=1)
    again = desk.take()
    assert (again.consumer, again.offer.alone, again.attempt) == ("c", True, 2)


def test_what_nobody_has_is_passed_over(make_desk):
    desk = make_desk()
    desk.commit(3)
    desk.join("a", credit=1)
    desk.take()
    desk.notes()
    assert desk.core.holders.take_back(records(1, 2, 77) | records(0, shard=("nowhere", 3))) == 0
    assert desk.kinds() == []


@pytest.mark.parametrize("snapshot", [False, True])
def test_it_stays_taken_back_after_a_restart(make_desk, snapshot):
    desk = make_desk()
    desk.commit(3)
    desk.join("a", credit=9)
    first = desk.take()
    desk.core.holders.take_back(records(1))
    desk.restart(snapshot=snapshot)
    assert desk.core.rejoin("a", [first.lease], desk.now) == [first.lease]
    [held] = desk.core.holders.listed(9)
    assert held.open == [(0, 1), (2, 3)]
    desk.join("b", credit=1)
    again = desk.take()
    assert (again.consumer, again.range, again.attempt) == ("b", (1, 2), 1)


# --- ordered ---------------------------------------------------------------------------------------------------------


def test_in_an_ordered_sink_all_behind_it_comes_back_too_and_to_the_next_in_order(make_desk):
    desk = make_desk(ordered=True)
    desk.commit(5)
    desk.join("a", credit=5)
    first = desk.take(2)
    desk.take(3)
    desk.notes()
    assert desk.core.holders.take_back(records(0, 3)) == 5
    desk.join("b", credit=5)
    again = desk.take()
    assert (again.consumer, again.range, again.attempt) == ("b", (0, 5), 1)
    assert desk.ack(first) == 0, "order holds: a late ack is refused by its lease"
    assert desk.core.stats().late_acks == 2
    desk.restart()
    assert desk.shard().in_hand == 5


def test_in_an_ordered_sink_a_record_behind_another_in_the_same_hand_is_refused(make_desk):
    desk = make_desk(ordered=True)
    desk.commit(3)
    desk.join("a", credit=5)
    desk.take(2)
    desk.take()
    desk.notes()
    with pytest.raises(InUse, match=r"emails/0/0 in the same hand comes first"):
        desk.core.holders.take_back(records(1))
    assert (desk.kinds(), desk.shard().in_hand) == ([], 3)


# --- who -------------------------------------------------------------------------------------------------------------


def test_it_is_told_who_has_what_since_when_and_until_when(make_desk):
    desk = make_desk(shards=[EMAILS, NEWS], ack_grace=20)
    desk.commit(2)
    desk.commit(1, NEWS)
    desk.join("a", credit=9)
    began = desk.now
    first = desk.take()
    desk.now += 5
    second = desk.take()
    one, two = desk.core.holders.listed(9)
    assert (one.lease, one.consumer, one.shard, one.open) == (first.lease, "a", EMAILS, [(0, 2)])
    assert (one.since, one.until, one.extended, one.attempt) == (began, began + 20, False, 1)
    assert (two.lease, two.since, two.until) == (second.lease, began + 5, began + 25)
    assert not one.awaited
    assert not one.silent


def test_a_record_with_a_time_of_its_own_says_so(make_desk):
    desk = make_desk(ack_grace=20)
    desk.commit(1)
    desk.join("a", credit=9)
    first = desk.take()
    desk.core.extend("a", first.lease, 0, 3600, desk.now)
    [held] = desk.core.holders.listed(9)
    assert (held.until, held.extended) == (desk.now + 3600, True)


def test_the_attempt_is_the_highest_of_what_is_in_hand(make_desk):
    desk = make_desk()
    desk.commit(2)
    desk.join("a", credit=2)
    first = desk.take()
    desk.retry(first, 1, after=0)
    desk.advance(0)
    desk.core.grant("a", 1)
    desk.take()
    assert [held.attempt for held in desk.core.holders.listed(9)] == [1, 2]


def test_a_consumer_that_has_not_come_back_is_awaited(make_desk):
    desk = make_desk()
    desk.commit(1)
    desk.join("a", credit=2)
    first = desk.take()
    desk.restart()
    [held] = desk.core.holders.listed(9)
    assert (held.awaited, held.since, held.until) == (True, None, desk.now + desk.limits.reconnect_seconds)
    desk.core.rejoin("a", [first.lease], desk.now)
    [held] = desk.core.holders.listed(9)
    assert (held.awaited, held.since, held.until) == (False, None, desk.now + desk.settings.ack_grace)


def test_leases_are_counted_and_listed_by_stream_and_consumer(make_desk):
    desk = make_desk(shards=[EMAILS, NEWS])
    desk.commit(4)
    desk.commit(1, NEWS)
    desk.join("a", credit=2)
    desk.take_all(1)
    desk.join("b", credit=9)
    desk.take_all(1)
    holders = desk.core.holders
    for stream in (None, "emails", "news", "nowhere"):
        for consumer in (None, "a", "b", "nobody"):
            listed = holders.listed(100, stream, consumer)
            assert len(listed) == holders.count(stream, consumer)
            assert {held.shard[0] for held in listed} <= ({stream} if stream else {"emails", "news"})
            assert {held.consumer for held in listed} <= ({consumer} if consumer else {"a", "b"})
    assert holders.count() == 5
    assert len(holders.listed(3)) == 3

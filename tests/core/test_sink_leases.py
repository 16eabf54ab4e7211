import pytest

from dq.config import Limits
from dq.core.states import IllegalStep
from dq.errors import InUse

EMAILS, NEWS = ("emails", 0), ("news", 0)


# --- offers and credit ---------------------------------------------------------------------------------------------------


def test_nothing_is_offered_without_consumer_credit_or_record(desk):
    assert desk.core.offer() is None
    desk.commit(10)
    assert desk.core.offer() is None
    desk.join("a")
    assert desk.core.offer() is None
    desk.core.grant("a", 0)
    desk.core.grant("a", -5)
    desk.core.grant("unknown", 5)
    assert desk.core.offer() is None
    desk.core.grant("a", 5)
    assert desk.core.offer() is not None


def test_an_offer_is_no_more_than_the_credit(desk):
    desk.commit(10)
    desk.join("a", credit=3)
    assert desk.take().range == (0, 3)
    assert desk.take() is None
    desk.core.grant("a", 2)
    desk.core.grant("a", 2)
    assert desk.take().range == (3, 7)


def test_credit_is_bounded(desk):
    desk.join("a", credit=10**12)
    assert desk.core.stats().consumers["a"].credit == desk.limits.prefetch_records_max


def test_a_consumer_that_takes_its_credit_back_gets_nothing_more(desk):
    desk.commit(10)
    desk.join("a", credit=5)
    desk.take(2)
    desk.core.withdraw("a")
    desk.core.withdraw("unknown")
    assert desk.take() is None
    desk.core.grant("a", 1)
    assert desk.take().range == (2, 3)


def test_an_offer_changes_nothing(desk):
    desk.commit(10)
    desk.join("a", credit=5)
    desk.notes()
    before = desk.core.snapshot(), desk.core.stats()
    assert desk.core.offer() == desk.core.offer()
    assert (desk.core.snapshot(), desk.core.stats()) == before
    assert desk.notes() == []


def test_less_than_was_offered_may_be_leased(desk):
    desk.commit(10)
    desk.join("a", credit=8)
    assert desk.take(3).range == (0, 3)
    assert desk.take().range == (3, 8)


@pytest.mark.parametrize("count", [0, -1, 6])
def test_a_count_that_was_not_offered_is_refused_and_nothing_changed(desk, count):
    desk.commit(10)
    desk.join("a", credit=5)
    before = desk.core.snapshot()
    with pytest.raises(IllegalStep):
        desk.core.lease(desk.core.offer(), count, 100, desk.now)
    assert desk.core.snapshot() == before


def test_an_offer_that_is_out_of_date_is_refused_and_nothing_changed(desk):
    desk.commit(10)
    desk.join("a", "b", credit=5)
    taken = desk.core.offer()
    desk.take()
    gone = desk.core.offer()
    desk.core.leave(gone.consumer, desk.now)
    desk.core.grant(taken.consumer, 50)
    before = desk.core.snapshot()
    for old in (taken, gone, taken._replace(shard=NEWS), taken._replace(alone=True)):
        with pytest.raises(IllegalStep):
            desk.core.lease(old, 5, 100, desk.now)
    assert desk.core.snapshot() == before


def test_a_consumer_with_enough_bytes_in_hand_is_not_idle_until_some_are_settled(make_desk):
    desk = make_desk(limits=Limits(prefetch_bytes_max=1_000))
    desk.commit(100)
    desk.join("a", credit=100)
    taken = desk.take(10)  # 2,000 bytes
    assert desk.take() is None
    desk.ack(taken, (0, 5))
    assert desk.take() is None
    desk.ack(taken, (5, 6))
    assert desk.take(1).range == (10, 11)
    assert desk.core.stats().consumers["a"].in_hand_bytes == 1_000


def test_consumers_are_served_in_turn(desk):
    desk.commit(100)
    desk.join("a", "b", "c", credit=100)
    assert [desk.take(1).consumer for _ in range(7)] == list("abcabca")


def test_shards_are_served_in_turn(make_desk):
    desk = make_desk(shards=[EMAILS, NEWS, ("news", 1)])
    for shard, count in [(EMAILS, 1_000), (NEWS, 2), (("news", 1), 3)]:
        desk.commit(count, shard)
    desk.join("a", credit=100)
    served = [desk.take(1).offer.shard for _ in range(9)]
    assert served == [EMAILS, NEWS, ("news", 1), EMAILS, NEWS, ("news", 1), EMAILS, ("news", 1), EMAILS]


def test_lease_numbers_rise(desk):
    desk.commit(10)
    desk.join("a", credit=10)
    assert [taken.lease for taken in desk.take_all(3)] == [0, 1, 2, 3]


def test_a_hint_that_is_old_or_of_another_shard_is_passed_over(desk):
    desk.commit(10)
    desk.core.committed(EMAILS, 3)
    desk.core.committed(NEWS, 3)
    assert desk.shard().end == 10


def test_nothing_is_offered_of_a_closed_shard_until_it_is_opened_again(desk):
    desk.commit(10)
    desk.join("a", credit=10)
    taken = desk.take(5)
    desk.core.close_shard(EMAILS)
    desk.commit(10)
    assert desk.take() is None
    assert desk.ack(taken, (0, 3)) == 3
    desk.core.release("a", taken.lease, [(3, 5)], desk.now)
    assert desk.take() is None
    desk.core.add_shard(EMAILS, 0, "uuid-1", 1)
    assert desk.take().range == (3, 5)


# --- acks ----------------------------------------------------------------------------------------------------------------


def test_an_ack_of_a_whole_lease_raises_the_floor(desk):
    desk.commit(10)
    desk.join("a", credit=10)
    assert desk.ack(desk.take()) == 10
    assert desk.floor == 10
    assert desk.core.stats().settled == desk.core.stats().consumers["a"].settled == 10


def test_acks_out_of_order_raise_the_floor_when_the_gap_closes(desk):
    desk.commit(10)
    desk.join("a", credit=10)
    taken = desk.take()
    assert desk.ack(taken, (5, 10), (2, 3)) == 6
    assert desk.floor == 0
    assert desk.ack(taken, (0, 2), (3, 5)) == 4
    assert desk.floor == 10
    assert desk.core.stats().consumers["a"].leases == 0


def test_a_second_ack_changes_nothing_and_is_counted(desk):
    desk.commit(10)
    desk.join("a", credit=10)
    taken = desk.take()
    desk.ack(taken, (0, 5))
    assert desk.ack(taken, (3, 7)) == 2
    assert desk.ack(taken) == 3
    assert desk.ack(taken) == 0
    assert desk.core.stats().late_acks == 2 + 7 + 10


def test_nobody_settles_what_he_never_had(desk):
    desk.commit(30)
    desk.join("a", "b", credit=10)
    mine, others = desk.take(), desk.take()
    assert desk.core.ack("a", mine.lease, [(0, 30)], desk.now) == 10
    assert desk.core.ack("a", others.lease, [(10, 20)], desk.now) == 0
    assert desk.core.ack("a", 999, [(0, 30)], desk.now) == 0
    assert desk.core.stats().ignored == 20
    assert desk.floor == 10
    assert desk.ack(others) == 10


def test_an_empty_or_reversed_range_settles_nothing(desk):
    desk.commit(10)
    desk.join("a", credit=10)
    taken = desk.take()
    for ranges in ([], [(5, 5)], [(7, 3)], [(5, 5), (8, 2)]):
        assert desk.core.ack("a", taken.lease, ranges, desk.now) == 0
    assert desk.ack(taken, (0, 3), (0, 3), (2, 4)) == 4
    assert desk.core.stats().late_acks == desk.core.stats().ignored == 0


def test_a_drop_settles_as_an_ack_and_is_told_apart(desk):
    desk.commit(10)
    desk.join("a", credit=10)
    taken = desk.take()
    desk.notes()
    assert desk.core.drop("a", taken.lease, [(0, 4)], desk.now) == 4
    assert desk.kinds() == ["drop"]
    assert (desk.floor, desk.core.stats().settled, desk.core.stats().dropped) == (4, 4, 4)


def test_what_is_released_comes_back_before_what_is_new_and_burns_no_attempt(desk):
    desk.commit(20)
    desk.join("a", credit=10)
    taken = desk.take()
    desk.core.release("a", taken.lease, [(4, 10)], desk.now)
    desk.core.grant("a", 20)
    again = desk.take()
    assert again.range == (4, 10)
    assert again.attempt == 1
    assert desk.take().range == (10, 20)
    assert desk.core.stats().redelivered == 6


def test_only_what_is_in_hand_can_be_released(desk):
    desk.commit(20)
    desk.join("a", "b", credit=10)
    mine, others = desk.take(), desk.take()
    desk.ack(mine, (0, 5))
    desk.core.release("a", mine.lease, [(0, 20)], desk.now)
    desk.core.release("a", others.lease, [(10, 20)], desk.now)
    assert desk.shard().waiting == 5
    assert desk.core.stats().consumers["b"].in_hand == 10


# --- late acks -----------------------------------------------------------------------------------------------------------


def lose_one_lease(desk, count):
    """`a` holds [0, count) in one lease, falls silent and loses it."""
    desk.commit(count)
    desk.join("a", credit=count)
    taken = desk.take()
    desk.advance(20)
    return taken


def test_a_late_ack_takes_a_record_from_where_it_waits(desk):
    taken = lose_one_lease(desk, 10)
    assert desk.shard().suspect == 10
    assert desk.ack(taken, (2, 7)) == 5
    assert desk.shard().suspect == 5
    assert desk.core.stats().late_acks == 0


def test_a_late_ack_takes_a_record_from_its_delay(desk):
    desk.commit(1)
    desk.join("a", credit=1)
    taken = desk.take()
    desk.core.extend("a", taken.lease, 0, 1.0, desk.now)
    desk.advance(1)
    again = None
    desk.core.grant("a", 1)
    again = desk.take()
    desk.retry(again)
    assert desk.shard().delayed == 1
    assert desk.ack(taken) == 1
    assert desk.floor == 1
    desk.advance(100)
    assert desk.take() is None


def test_a_late_ack_takes_a_record_out_of_another_hand(desk):
    taken = lose_one_lease(desk, 3)
    desk.join("b", credit=5)
    others = desk.take()
    assert (others.consumer, others.range, others.offer.alone) == ("b", (0, 1), True)
    desk.commit(4)
    assert desk.take() is None
    assert desk.ack(taken) == 3
    assert desk.floor == 3
    assert desk.core.stats().consumers["b"].in_hand == 0
    assert desk.ack(others) == 0
    assert desk.core.stats().late_acks == 1
    assert desk.take().range == (3, 7), "b is idle again"


def test_a_late_ack_of_what_was_settled_by_another_changes_nothing(desk):
    taken = lose_one_lease(desk, 2)
    desk.join("b", credit=5)
    desk.ack(desk.take())
    assert desk.ack(taken) == 1
    assert desk.core.stats().late_acks == 1


def test_a_late_ack_of_a_dying_record_changes_nothing(make_desk):
    desk = make_desk(max_attempts=1)
    taken = lose_one_lease(desk, 1)
    assert [letter.reason for letter in desk.core.dead_letters()] == ["lease_expired"]
    assert desk.ack(taken) == 0
    assert desk.core.stats().late_acks == 1
    assert len(desk.core.dead_letters()) == 1


def test_a_late_ack_of_an_earlier_life_of_a_consumer_gives_no_credit(desk):
    desk.commit(10)
    desk.join("a", credit=9)
    taken = desk.take(3)
    desk.die("a")
    desk.join("a")
    assert desk.ack(taken) == 3
    assert desk.take() is None
    assert desk.core.stats().consumers["a"].settled == 3
    desk.core.grant("a", 2)
    assert desk.take().range == (3, 5)


def test_leases_that_ended_are_forgotten_at_last(make_desk, monkeypatch):
    monkeypatch.setattr("dq.core.book.ENDED_LEASES_MAX", 3)
    desk = make_desk()
    desk.commit(10)
    desk.join("a", credit=10)
    leases = desk.take_all(2)
    desk.advance(20)
    assert desk.ack(leases[0]) == desk.ack(leases[1]) == 0
    assert [desk.ack(taken) for taken in leases[2:]] == [2, 2, 2]


# --- consumers -----------------------------------------------------------------------------------------------------------


def test_a_consumer_id_is_taken_until_its_consumer_leaves(desk):
    desk.join("a")
    with pytest.raises(InUse, match="'a' is taken"):
        desk.core.join("a", desk.now)
    with pytest.raises(InUse):
        desk.core.rejoin("a", [], desk.now)
    desk.core.leave("a", desk.now)
    desk.join("a")
    desk.die("a")
    desk.join("a")


def test_a_goodbye_gives_everything_back_and_burns_no_attempt(desk):
    desk.commit(10)
    desk.join("a", credit=10)
    desk.take(4)
    desk.take(3)
    desk.core.leave("a", desk.now)
    desk.join("b", credit=20)
    assert [(taken.range, taken.attempt, taken.offer.alone) for taken in desk.take_all()] == [
        ((0, 7), 1, False),
        ((7, 10), 1, False),
    ]
    assert "a" not in desk.core.stats().consumers


def test_goodbyes_and_deaths_of_the_unknown_change_nothing(desk):
    desk.core.leave("nobody", desk.now)
    desk.die("nobody")
    desk.core.renew("nobody", [1, 2], desk.now)
    assert desk.core.stats().consumers == {}


# --- trimming and shards -------------------------------------------------------------------------------------------------


def test_trimming_counts_what_was_missed_and_frees_hands(desk):
    desk.commit(20)
    desk.join("a", credit=10)
    taken = desk.take()
    desk.ack(taken, (0, 3))
    assert desk.core.trimmed(EMAILS, 15) == 12
    assert desk.core.trimmed(EMAILS, 15) == desk.core.trimmed(EMAILS, 2) == desk.core.trimmed(NEWS, 9) == 0
    assert desk.core.stats().missed == 12
    assert desk.core.stats().consumers["a"].in_hand == 0
    assert desk.ack(taken, (3, 10)) == 0
    desk.core.grant("a", 10)
    assert desk.take().range == (15, 20)


def test_a_stream_that_was_made_anew_begins_anew(desk):
    desk.commit(10)
    desk.join("a", credit=20)
    taken = desk.take(5)
    desk.core.add_shard(EMAILS, 3, "uuid-2", 1)
    assert (desk.shard().floor, desk.shard().next, desk.shard().end) == (3, 3, 0)
    assert desk.core.stats().consumers["a"].in_hand == 0
    desk.core.committed(EMAILS, 8)
    again = desk.take()
    assert again.range == (3, 8)
    assert desk.ack(taken) == 0, "it would settle records of the new stream"
    assert desk.ack(again) == 5


def test_the_same_stream_keeps_its_cursor(desk):
    desk.commit(10)
    desk.join("a", credit=5)
    desk.ack(desk.take())
    desk.core.add_shard(EMAILS, 0, "uuid-1", 2)
    assert desk.floor == 5
    assert desk.notes()[-1] == {"epoch": 2, "stream": "emails", "bucket": 0}


def test_memory_does_not_grow_with_the_backlog_or_with_what_was_done(desk):
    desk.join("a", credit=1_000)
    for _ in range(200):
        desk.commit(100_000)
        desk.core.grant("a", 1_000)
        desk.ack(desk.take())
        desk.advance(1)
        desk.notes()
    book = desk.core._book
    ledger = book.ledgers[EMAILS]
    assert [len(each) for each in (ledger.settled, ledger.returned, ledger.leases, book.leases, book.ended)] == [0] * 5
    assert len(desk.core._deadlines._heap) <= 2


def test_a_consumer_that_falls_silent_is_to_be_asked_once_and_served_when_it_speaks(make_desk):
    desk = make_desk(ack_grace=10.0)
    desk.commit(10)
    desk.join("a", credit=5)
    desk.take()
    desk.advance(11)
    # It may have nothing to say: all that it had is settled as far as it knows
    assert desk.core.take_silenced() == ["a"]
    assert desk.core.take_silenced() == []
    assert desk.take() is None
    desk.core.withdraw("a")
    desk.core.grant("a", 20)
    assert desk.take() is not None

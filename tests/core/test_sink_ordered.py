"""An ordered sink: strictly by offset in each shard, by one consumer at a time. Design section 5, ordered."""

import pytest

from dq.core.ordering import owner_of
from dq.core.states import IllegalStep

EMAILS = ("emails", 0)
NEWS = ("news", 0)


@pytest.fixture
def desk(make_desk):
    """An ordered sink over two shards, of which only one has records."""
    return make_desk(shards=[EMAILS, NEWS], ordered=True)


def in_hand(desk, consumer):
    return desk.core.stats().consumers[consumer].in_hand


# --- one at a time -------------------------------------------------------------------------------------------------------


def test_while_a_consumer_has_records_of_a_shard_nobody_else_gets_more_of_it(desk):
    """Design section 5, ordered: one consumer at a time for each bucket."""
    desk.commit(10)
    desk.join("a", "b", credit=5)
    taken = desk.take(5)
    assert desk.take() is None, "b waits, though it is idle"
    desk.core.grant(taken.consumer, 2)
    more = desk.take()
    assert (more.consumer, more.range) == (taken.consumer, (5, 7))
    desk.ack(taken)
    desk.ack(more)
    assert desk.take().range == (7, 10), "nobody has any: to anybody"


def test_a_shard_whose_owner_is_not_idle_does_not_stop_the_others(desk):
    """Design section 5, ordered: other shards are not starved."""
    desk.commit(10)
    desk.join("a", credit=3)
    first = desk.take()
    desk.join("b", credit=4)
    desk.commit(2, NEWS)
    other = desk.take()
    assert (other.consumer, other.offer.shard) == ("b", NEWS)
    assert desk.take() is None
    desk.core.grant("a", 1)
    assert desk.take().range == (3, 4), "and it goes on once its owner is idle again"
    desk.ack(first)


def test_a_shard_goes_to_another_when_its_owner_has_done_all_and_wants_no_more(desk):
    desk.commit(10)
    desk.join("a", credit=3)
    taken = desk.take()
    desk.join("b", credit=4)
    assert desk.take() is None
    desk.ack(taken)
    assert desk.take().consumer == "b"


@pytest.mark.parametrize("how", ["leave", "die", "expire"])
def test_a_shard_goes_to_another_when_its_owner_is_gone(desk, how):
    """Design section 5, ordered: the rest waits for the first one."""
    desk.commit(4)
    desk.join("a", credit=2)
    desk.take()
    desk.join("b", credit=9)
    assert desk.take() is None
    if how == "leave":
        desk.core.leave("a", desk.now)
    elif how == "die":
        desk.die("a")
    else:
        desk.advance(30)
    order = []
    while (taken := desk.take()) is not None:
        assert taken.consumer == "b"
        order += range(*taken.range)
        desk.ack(taken)
    assert order == [0, 1, 2, 3]


def test_shards_are_shared_between_consumers(make_desk):
    shards = [("s", bucket) for bucket in range(4)]
    desk = make_desk(shards=shards, ordered=True)
    for shard in shards:
        desk.commit(5, shard)
    desk.join("a", "b", credit=10)
    assert sorted(taken.consumer for taken in desk.take_all()) == ["a", "a", "b", "b"]


# --- what comes back holds back what is behind it ------------------------------------------------------------------------


def test_when_a_record_is_retried_the_rest_of_its_shard_is_given_back_unstarted(desk):
    """Design section 5, ordered: the bucket's rest is given back, no attempt burned, and waits for it."""
    desk.commit(8)
    desk.commit(2, NEWS)
    desk.join("a", credit=10)
    emails, news = sorted(desk.take_all(), key=lambda taken: taken.offer.shard)
    desk.ack(emails, (0, 2))
    desk.retry(emails, 4, after=1.0)
    assert desk.kinds()[-2:] == ["retry", "release"]
    assert in_hand(desk, "a") == 4, "2 and 3, and the other shard's"
    desk.core.grant("a", 10)
    assert desk.take() is None
    desk.advance(2)
    again = desk.take()
    assert (again.range, again.offer.attempts) == ((4, 8), {4: 1})
    assert desk.ack(news) == 2


def test_nothing_is_offered_beyond_a_delayed_record_to_anybody(desk):
    desk.commit(6)
    desk.join("a", "b", credit=6)
    taken = desk.take(3)
    desk.retry(taken, 0, after=5.0)
    assert desk.take() is None
    desk.commit(3)
    assert desk.take() is None
    desk.advance(6)
    assert desk.take(1).first == 0


def test_a_record_that_is_given_back_comes_before_what_was_behind_it_in_the_hand(desk):
    desk.commit(6)
    desk.join("a", credit=6)
    taken = desk.take()
    desk.core.release("a", taken.lease, [(2, 3)], desk.now)
    assert in_hand(desk, "a") == 2
    desk.core.grant("a", 6)
    assert desk.take().range == (2, 6)


def test_suspects_go_one_by_one_and_what_is_new_waits_for_them(desk):
    desk.commit(3)
    desk.join("a", credit=3)
    desk.take()
    desk.die("a")
    desk.commit(2)
    desk.join("b", "c", credit=9)
    seen = []
    while (taken := desk.take()) is not None:
        seen.append(taken.range)
        assert desk.take() is None
        desk.ack(taken)
    assert seen == [(0, 1), (1, 2), (2, 3), (3, 5)]


def test_a_suspect_does_not_overtake_what_waits_before_it(desk):
    desk.commit(4)
    desk.join("a", credit=2)
    taken = desk.take()
    desk.core.grant("a", 2)
    later = desk.take()
    desk.advance(15)
    desk.core.renew("a", [taken.lease], desk.now)
    desk.advance(10)
    assert desk.shard().suspect == 2, "the later lease has expired"
    desk.core.release("a", taken.lease, [(1, 2)], desk.now)
    desk.ack(taken, (0, 1))
    desk.core.grant("a", 9)
    order = [later.first]
    order.clear()
    while (taken := desk.take()) is not None:
        order += range(*taken.range)
        desk.ack(taken)
    assert order == [1, 2, 3]


def test_a_culprit_is_dead_lettered_and_holds_nobody_back_while_it_dies(make_desk):
    """Design section 5, ordered: a dead letter on its way does not stop the shard."""
    desk = make_desk(ordered=True, max_attempts=1)
    desk.commit(4)
    desk.join("a", credit=4)
    taken = desk.take()
    desk.retry(taken, 1)
    assert desk.shard().dying == 1
    assert in_hand(desk, "a") == 3, "nothing is given back"
    assert desk.ack(taken) == 3
    desk.commit(2)
    desk.core.grant("a", 2)
    assert desk.take().range == (4, 6)


def test_an_overdue_record_takes_those_behind_it_with_it_and_burns_no_attempt_of_theirs(desk):
    desk.commit(4)
    desk.join("a", credit=4)
    taken = desk.take()
    desk.core.abandon("a", taken.lease, 1, desk.now)
    desk.core.abandon("a", taken.lease, 3, desk.now)
    desk.advance(10)
    desk.core.renew("a", [taken.lease], desk.now)
    desk.advance(15)
    desk.core.grant("a", 9)
    again = desk.take()
    assert (again.range, again.offer.attempts) == ((1, 4), {1: 1})


# --- late acks -------------------------------------------------------------------------------------------------------------


def test_a_late_ack_is_refused_by_its_lease_number_and_counted(desk):
    """Design section 5, ordered: a late ack settles nothing."""
    desk.commit(4)
    desk.join("a", credit=4)
    taken = desk.take()
    desk.retry(taken, 1, after=1.0)
    assert desk.ack(taken, (0, 4)) == 1, "0 alone is in its hand"
    assert desk.core.stats().late_acks == 3
    desk.advance(2)
    desk.core.grant("a", 4)
    again = desk.take()
    assert desk.ack(taken, (1, 4)) == 0
    assert desk.core.stats().late_acks == 6
    assert desk.ack(again) == 3
    assert desk.floor == 4


# --- with everything else --------------------------------------------------------------------------------------------------


def test_a_skip_opens_the_way_for_what_it_held_back(desk):
    """S7: a record that is retried and then taken out of its stream."""
    desk.commit(4)
    desk.join("a", credit=4)
    desk.retry(desk.take(), 0, after=60)
    desk.core.grant("a", 9)
    assert desk.take() is None
    desk.core.removed(EMAILS, [(0, 1)])
    assert desk.take().range == (1, 4)


def test_a_filter_works_in_order(desk):
    desk.commit(8)
    desk.join("a", "b", credit=4)
    desk.core.skip(desk.core.offer(), 2)
    offer = desk.core.offer()
    desk.core.lease(offer, 4, 100, desk.now, [(3, 4)])
    assert desk.take() is None or owner_of(desk.core._book.ledgers[EMAILS]).name == offer.consumer


def test_a_trim_opens_the_way_for_what_it_held_back(desk):
    desk.commit(4)
    desk.join("a", credit=4)
    desk.retry(desk.take(), 0, after=60)
    desk.core.grant("a", 9)
    assert desk.take() is None
    desk.core.trimmed(EMAILS, 1)
    assert desk.take().range == (1, 4)


def test_an_offer_that_was_overtaken_is_refused(desk):
    desk.commit(4)
    desk.join("a", "b", credit=4)
    offer = desk.core.offer()
    other = desk.core.offer()
    desk.core.lease(offer, 1, 100, desk.now)
    before = desk.core.snapshot()
    for stale in (offer, other):
        with pytest.raises(IllegalStep, match="nothing was changed"):
            desk.core.lease(stale, 1, 100, desk.now)
    assert desk.core.snapshot() == before


@pytest.mark.parametrize("snapshot", [False, True], ids=["notes", "snapshot"])
def test_after_a_restart_the_owner_that_returns_is_the_owner_still(desk, snapshot):
    desk.commit(8)
    desk.join("a", credit=2)
    taken = desk.take()
    desk.restart(snapshot=snapshot)
    desk.join("b", credit=9)
    assert desk.take() is None, "a is awaited"
    desk.core.rejoin("a", [taken.lease], desk.now)
    desk.core.grant("a", 1)
    assert desk.take().consumer == "a"


def test_after_a_restart_the_shard_of_an_owner_that_does_not_return_goes_to_another(desk):
    desk.commit(8)
    desk.join("a", credit=2)
    desk.take()
    desk.restart()
    desk.join("b", credit=9)
    assert desk.take() is None
    desk.advance(6)
    assert desk.take().range == (0, 2)


def test_an_owner_that_keeps_only_its_later_leases_keeps_none(desk):
    desk.commit(8)
    desk.join("a", credit=2)
    desk.take()
    desk.core.grant("a", 2)
    later = desk.take()
    desk.restart()
    assert desk.core.rejoin("a", [later.lease], desk.now) == []
    desk.core.grant("a", 9)
    assert desk.take().range == (0, 4)


def test_a_power_cut_between_a_retry_and_what_it_gives_back_is_mended_at_the_start(desk):
    desk.commit(4)
    desk.join("a", credit=4)
    taken = desk.take()
    desk.retry(taken, 1, after=60)
    desk.notes()
    assert b"release" in desk.log.pop()
    desk.restart()
    desk.core.rejoin("a", [taken.lease], desk.now)
    assert in_hand(desk, "a") == 1


def test_one_that_drains_for_a_suspect_goes_on_with_its_shards_when_that_is_gone(desk):
    desk.commit(2)
    desk.join("a", credit=2)
    desk.take()
    desk.join("b", credit=3)
    desk.commit(9, NEWS)
    desk.take()
    desk.core.grant("b", 9)
    desk.die("a")
    assert desk.take() is None, "b drains for the suspects of a"
    desk.core.removed(EMAILS, [(0, 2)])
    assert desk.take().range == (3, 9)


def test_when_an_owner_of_several_leases_dies_all_of_it_is_suspect(desk):
    """Nobody knows which record it was; what lies behind the first lease is not taken for innocent."""
    desk.commit(4)
    desk.join("a", credit=2)
    desk.take()
    desk.core.grant("a", 2)
    desk.take()
    desk.die("a")
    assert (desk.shard().suspect, desk.shard().waiting) == (4, 4)
    desk.join("b", credit=9)
    offer = desk.core.offer()
    assert (offer.alone, offer.first) == (True, 0)

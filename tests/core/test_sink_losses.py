import pytest

EMAILS, NEWS = ("emails", 0), ("news", 0)


def serve(desk, poison=frozenset(), consumers=("a", "b", "c"), credit=10, deaths_max=100):
    """Consumers work until nothing is left; who starts a poison record dies of it, and another one comes in its place.

    A consumer works record by record, in order. Returns the deaths, as the sets of what was in hand.
    """
    for consumer in consumers:
        desk.join(consumer, credit=credit)
    deaths, hands = [], {consumer: [] for consumer in consumers}
    while True:
        for taken in desk.take_all(5):
            if taken.offer.alone:
                assert hands[taken.consumer] == [], "a suspect goes to who has nothing else"
                assert taken.stop == taken.first + 1
            else:
                assert not any(each.offer.alone for each, _ in hands[taken.consumer]), "and gets nothing else meanwhile"
            hands[taken.consumer] += [(taken, offset) for offset in range(*taken.range)]
        working = [consumer for consumer, hand in hands.items() if hand]
        if not working:
            if desk.core.next_deadline() is None or not desk.advance(10):
                return deaths
            continue
        for consumer in working:
            taken, offset = hands[consumer][0]
            if offset in poison:
                deaths.append({offset for _, offset in hands[consumer]})
                assert len(deaths) <= deaths_max, "deaths without end"
                hands[consumer] = []
                desk.die(consumer)
                desk.join(consumer, credit=credit)
            else:
                hands[consumer].pop(0)
                assert desk.ack(taken, (offset, offset + 1)) == 1
                desk.core.grant(consumer, 1)


# --- a consumer dies -----------------------------------------------------------------------------------------------------


def test_one_record_alone_in_hand_burns_an_attempt(desk):
    desk.commit(1)
    desk.join("a", "b", credit=1)
    assert desk.take().attempt == 1
    desk.die("a")
    again = desk.take()
    assert (again.consumer, again.attempt, again.offer.alone) == ("b", 2, True)
    assert again.offer.errors == {0: "consumer died"}


def test_alone_counts_over_all_leases(desk):
    desk.commit(2)
    desk.join("a", credit=2)
    first, second = desk.take(1), desk.take(1)
    desk.ack(first)
    desk.die("a")
    assert desk.core.stats().lost == 1
    desk.join("b", credit=5)
    assert desk.take().range == second.range


def test_many_in_hand_burn_no_attempt_and_come_one_by_one_in_order(desk):
    desk.commit(5)
    desk.join("a", credit=5)
    desk.take()
    desk.die("a")
    desk.join("b", credit=10)
    for offset in range(5):
        taken = desk.take()
        assert (taken.range, taken.offer.alone, taken.attempt) == ((offset, offset + 1), True, 1)
        assert desk.take() is None
        desk.ack(taken)
    assert desk.floor == 5


def test_nothing_in_hand_is_nothing_lost(desk):
    desk.commit(5)
    desk.join("a", credit=5)
    desk.ack(desk.take())
    desk.notes()
    desk.die("a")
    assert desk.notes() == []


def test_when_the_culprit_is_found_the_rest_of_its_group_is_cleared(desk):
    desk.commit(10)
    desk.join("a", credit=5)
    desk.take()
    desk.die("a")
    desk.join("b", credit=10)
    desk.ack(desk.take())
    assert desk.take().range == (1, 2)
    desk.die("b")
    assert desk.shard().suspect == 1
    desk.join("c", credit=20)
    culprit = desk.take()
    assert (culprit.range, culprit.attempt, culprit.offer.alone) == ((1, 2), 2, True)
    desk.ack(culprit)
    assert [(taken.range, taken.offer.alone, taken.attempt) for taken in desk.take_all()] == [
        ((2, 5), False, 1),
        ((5, 10), False, 1),
    ]


def test_what_is_cleared_is_offered_even_when_nothing_else_waits(desk):
    desk.commit(3)
    desk.join("a", "b", credit=9)
    desk.take()
    assert desk.take() is None
    desk.die("a")
    desk.take()
    assert desk.take() is None
    desk.die("b")
    desk.join("c", credit=9)
    desk.ack(desk.take())
    assert desk.take().range == (1, 3)


def test_another_group_stays_suspect_when_one_is_cleared(make_desk):
    desk = make_desk(shards=[EMAILS, NEWS])
    desk.commit(3)
    desk.commit(3, NEWS)
    desk.join("a", "b", credit=3)
    desk.take_all()
    desk.die("a")
    desk.die("b")
    desk.join("c", credit=20)
    assert desk.take().offer.shard == EMAILS
    desk.die("c")
    assert (desk.shard(EMAILS).suspect, desk.shard(EMAILS).waiting) == (1, 3)
    assert desk.shard(NEWS).suspect == 3


def test_a_group_may_span_shards(make_desk):
    desk = make_desk(shards=[EMAILS, NEWS])
    desk.commit(3)
    desk.commit(3, NEWS)
    desk.join("a", credit=6)
    desk.take_all()
    desk.die("a")
    desk.join("b", credit=6)
    assert desk.take().offer.alone
    desk.die("b")
    assert [desk.shard(shard).suspect for shard in (EMAILS, NEWS)] == [1, 0]


def test_a_suspect_that_is_released_stays_suspect(desk):
    desk.commit(3)
    desk.join("a", credit=3)
    desk.take()
    desk.die("a")
    desk.join("b", credit=6)
    taken = desk.take()
    desk.core.release("b", taken.lease, [taken.range], desk.now)
    assert desk.take().range == (0, 1)
    desk.core.leave("b", desk.now)
    assert desk.shard().suspect == 3
    desk.join("c", credit=6)
    desk.take()
    desk.die("c")
    assert desk.shard().suspect == 1, "they were one group all the time"


def test_a_suspect_whose_handler_fails_is_innocent_of_the_death(desk):
    desk.commit(3)
    desk.join("a", credit=3)
    desk.take()
    desk.die("a")
    desk.join("b", credit=6)
    desk.retry(desk.take())
    desk.advance(1)
    desk.ack(desk.take())
    desk.ack(desk.take())
    again = desk.take()
    assert (again.range, again.offer.alone, again.attempt) == ((0, 1), False, 2)


def test_a_deadly_record_is_delivered_alone_even_after_a_retry(desk):
    desk.commit(1)
    desk.join("a", "b", credit=10)
    desk.take()
    desk.die("a")
    desk.retry(desk.take())
    desk.commit(5)
    desk.ack(desk.take())
    desk.advance(1)
    assert desk.take().offer.alone


# --- isolation -----------------------------------------------------------------------------------------------------------


def make_suspects(desk, count=3):
    desk.commit(count)
    desk.join("dead", credit=count)
    desk.take()
    desk.die("dead")


def test_while_suspects_wait_one_consumer_drains_and_the_others_go_on(desk):
    desk.commit(30)
    desk.join("a", "b", "c", credit=10)
    held = {taken.consumer: taken for taken in desk.take_all()}
    desk.ack(held["b"], (10, 15))
    make_suspects(desk)
    desk.commit(100)
    for consumer in "abc":
        desk.core.grant(consumer, 10)
    assert {desk.take(1).consumer for _ in range(6)} == {"a", "c"}, "b has the least in hand and drains"
    desk.ack(held["b"])
    taken = desk.take()
    assert (taken.consumer, taken.offer.alone, taken.range) == ("b", True, (30, 31))
    assert {desk.take(1).consumer for _ in range(4)} == {"a", "c"}
    for offset in (31, 32):
        desk.ack(taken)
        taken = desk.take()
        assert (taken.consumer, taken.range) == ("b", (offset, offset + 1))
    desk.ack(taken)
    assert "b" in {desk.take(1).consumer for _ in range(3)}, "b works as any other again"


def test_whoever_has_nothing_in_hand_takes_a_suspect_at_once(desk):
    desk.commit(10)
    desk.join("a", credit=10)
    desk.take()
    make_suspects(desk, 5)
    desk.join("b", "c", credit=5)
    desk.core.grant("a", 5)
    assert [(taken.consumer, taken.range) for taken in desk.take_all()] == [("b", (10, 11)), ("c", (11, 12))]


def test_a_lonely_consumer_drains_and_takes_suspects_singly(desk):
    desk.commit(10)
    desk.join("a", credit=10)
    held = desk.take()
    make_suspects(desk)
    desk.commit(10)
    desk.core.grant("a", 100)
    assert desk.take() is None
    desk.ack(held, (0, 9))
    assert desk.take() is None
    desk.ack(held, (9, 10))
    for offset in (10, 11, 12):
        taken = desk.take()
        assert taken.range == (offset, offset + 1)
        assert desk.take() is None
        desk.ack(taken)
    assert desk.take().range == (13, 23)


@pytest.mark.parametrize("gone", ["dies", "leaves", "falls silent", "wants no more"])
def test_another_consumer_drains_when_the_first_is_gone(desk, gone):
    desk.commit(20)
    desk.join("a", "b", credit=10)
    held = {taken.consumer: taken for taken in desk.take_all()}
    desk.ack(held["a"], (0, 1))
    make_suspects(desk)
    desk.core.grant("a", 10)
    desk.core.grant("b", 10)
    assert desk.take() is None
    if gone == "dies":
        desk.die("a")
    elif gone == "leaves":
        desk.core.leave("a", desk.now)
    elif gone == "wants no more":
        desk.core.withdraw("a")
        assert desk.take() is None
    else:
        desk.now += 10
        desk.core.renew("b", [held["b"].lease], desk.now)
        desk.advance(10)
    desk.ack(held["b"])
    taken = desk.take()
    assert (taken.consumer, taken.offer.alone) == ("b", True)


@pytest.mark.parametrize("poison", range(12))
@pytest.mark.parametrize("consumers", [("a",), ("a", "b"), ("a", "b", "c", "d")])
def test_a_poison_record_is_dead_lettered_and_the_innocent_burn_no_attempt(make_desk, poison, consumers):
    desk = make_desk(max_attempts=3)
    desk.commit(12)
    deaths = serve(desk, {poison}, consumers)
    [letter] = desk.core.dead_letters()
    assert (letter.offset, letter.attempts, letter.reason, letter.error) == (poison, 3, "consumer_died", "consumer died")
    assert len(deaths) <= 3 + 1
    assert all(death == {poison} for death in deaths[1:])
    assert desk.core.stats().settled == 11
    assert desk.core.stats().lost == 2
    desk.core.dead_letter_stored("emails", letter.intent)
    assert desk.floor == 12
    assert desk.core._book.groups == {}


@pytest.mark.parametrize("poison", [{0, 1}, {0, 11}, {3, 4, 5}, {1, 3, 5, 7, 9, 11}, set(range(12))])
@pytest.mark.parametrize("consumers", [("a",), ("a", "b", "c")])
def test_several_poison_records_are_all_found(make_desk, poison, consumers):
    desk = make_desk(max_attempts=2)
    desk.commit(12)
    deaths = serve(desk, poison, consumers)
    assert {letter.offset for letter in desk.core.dead_letters()} == poison
    assert all(letter.attempts == 2 for letter in desk.core.dead_letters())
    assert len(deaths) <= len(poison) * (2 + 1)
    assert desk.core.stats().settled == 12 - len(poison)


# --- a lease expires -----------------------------------------------------------------------------------------------------


def test_a_lease_without_a_sign_of_life_expires_after_its_grace(desk):
    desk.commit(1)
    desk.join("a", credit=1)
    desk.take()
    assert desk.core.next_deadline() == desk.now + 20
    assert desk.advance(19.9) == 0
    assert desk.advance(0.1) == 1
    assert desk.shard().suspect == 1
    desk.join("b", credit=1)
    again = desk.take()
    assert (again.consumer, again.attempt, again.offer.errors) == ("b", 2, {0: "lease expired"})


def test_a_renewed_lease_does_not_expire(desk):
    desk.commit(5)
    desk.join("a", credit=5)
    taken = desk.take()
    for _ in range(10):
        assert desk.advance(15) == 0
        desk.core.renew("a", [taken.lease], desk.now)
    assert desk.shard().in_hand == 5
    assert desk.advance(20) == 1


def test_only_the_leases_that_were_named_are_renewed(desk):
    desk.commit(6)
    desk.join("a", credit=6)
    first, second = desk.take(3), desk.take(3)
    desk.advance(15)
    desk.core.renew("a", [second.lease], desk.now)
    assert desk.advance(5) == 1
    assert desk.shard().suspect == 3
    assert desk.ack(second) == 3
    assert desk.ack(first) == 3, "late, and still counted"


def test_many_records_of_an_expired_lease_burn_no_attempt(desk):
    desk.commit(5)
    desk.join("a", credit=5)
    desk.take()
    desk.advance(20)
    desk.join("b", credit=5)
    assert desk.take().attempt == 1
    assert desk.core.stats().lost == 0


def test_a_silent_consumer_gets_nothing_until_it_is_heard_of(desk):
    desk.commit(5)
    desk.join("a", credit=5)
    taken = desk.take()
    desk.core.grant("a", 5)
    desk.advance(20)
    assert desk.core.stats().consumers["a"].silent
    assert desk.take() is None
    desk.core.renew("a", [taken.lease], desk.now)
    assert desk.take().offer.alone


def test_one_lost_lease_of_a_consumer_that_is_heard_of_does_not_make_it_silent(desk):
    desk.commit(4)
    desk.join("a", credit=10)
    desk.take(2)
    other = desk.take(2)
    desk.advance(19)
    desk.core.renew("a", [other.lease], desk.now)
    desk.advance(1)
    assert not desk.core.stats().consumers["a"].silent


def test_an_expired_poison_record_is_dead_lettered(make_desk):
    desk = make_desk(max_attempts=2)
    desk.commit(1)
    for consumer in "ab":
        desk.join(consumer, credit=1)
        assert desk.take().consumer == consumer
        desk.advance(20)
    [letter] = desk.core.dead_letters()
    assert (letter.reason, letter.error, letter.consumer) == ("lease_expired", "lease expired", "b")


# --- deadlines of single records -----------------------------------------------------------------------------------------


def test_an_extended_record_outlives_its_lease(desk):
    desk.commit(3)
    desk.join("a", credit=3)
    taken = desk.take()
    desk.core.extend("a", taken.lease, 1, 60.0, desk.now)
    desk.advance(20)
    assert desk.shard().suspect == 2
    assert desk.shard().in_hand == 1
    desk.advance(39)
    assert desk.ack(taken, (1, 2)) == 1


def test_an_extended_record_comes_back_at_its_own_time_with_an_attempt_burned(desk):
    desk.commit(3)
    desk.join("a", credit=5)
    taken = desk.take()
    desk.core.extend("a", taken.lease, 1, 5.0, desk.now)
    assert desk.core.next_deadline() == desk.now + 5
    desk.advance(4)
    desk.core.renew("a", [taken.lease], desk.now)
    assert desk.advance(1) == 1
    again = desk.take()
    assert (again.range, again.attempt, again.offer.alone) == ((1, 2), 2, False)
    assert desk.shard().in_hand == 3


def test_the_last_extension_counts(desk):
    desk.commit(1)
    desk.join("a", credit=1)
    taken = desk.take()
    desk.core.extend("a", taken.lease, 0, 60.0, desk.now)
    desk.core.extend("a", taken.lease, 0, 5.0, desk.now)
    desk.core.extend("a", taken.lease, 0, 30.0, desk.now)
    desk.core.extend("a", taken.lease, 0, float("nan"), desk.now)
    desk.core.extend("a", taken.lease, 0, float("inf"), desk.now)
    assert desk.advance(29) == 0
    assert desk.advance(1) == 1


def test_an_abandoned_record_is_not_renewed_with_its_lease(desk):
    desk.commit(3)
    desk.join("a", credit=5)
    taken = desk.take()
    desk.core.abandon("a", taken.lease, 0, desk.now)
    for _ in range(2):
        desk.advance(9)
        desk.core.renew("a", [taken.lease], desk.now)
    assert desk.advance(2) == 1
    again = desk.take()
    assert (again.range, again.attempt, again.offer.errors) == ((0, 1), 2, {0: "lease expired"})
    assert desk.shard().in_hand == 3


def test_a_record_that_is_abandoned_each_time_is_dead_lettered_at_last(make_desk):
    desk = make_desk(max_attempts=3)
    desk.commit(1)
    desk.join("a", credit=10)
    for _ in range(3):
        taken = desk.take()
        desk.core.abandon("a", taken.lease, 0, desk.now)
        desk.advance(20)
    assert [(letter.reason, letter.attempts) for letter in desk.core.dead_letters()] == [("lease_expired", 3)]


def test_a_record_that_was_settled_has_no_deadline(desk):
    desk.commit(3)
    desk.join("a", credit=3)
    taken = desk.take()
    desk.core.extend("a", taken.lease, 0, 5.0, desk.now)
    desk.core.abandon("a", taken.lease, 1, desk.now)
    desk.ack(taken)
    assert desk.advance(100) == 0


def test_words_about_records_that_are_not_in_hand_change_nothing_and_are_counted(desk):
    desk.commit(4)
    desk.join("a", "b", credit=2)
    mine, others = desk.take(), desk.take()
    desk.ack(mine, (0, 1))
    desk.notes()
    before = desk.shard()
    for lease, offset in [(mine.lease, 0), (mine.lease, 3), (others.lease, 2), (99, 1), (-1, -1)]:
        desk.core.retry("a", lease, offset, None, "boom", desk.now)
        desk.core.dead_letter("a", lease, offset, "bad", "", desk.now)
        desk.core.extend("a", lease, offset, 1.0, desk.now)
        desk.core.abandon("a", lease, offset, desk.now)
    assert desk.shard() == before
    assert desk.notes() == []
    assert desk.core.stats().ignored == 20


def test_extensions_of_what_was_settled_long_ago_cost_nothing(desk):
    desk.join("a", credit=1_000)
    for _ in range(1_000):
        desk.commit(1)
        taken = desk.take()
        desk.core.extend("a", taken.lease, taken.first, 3_600, desk.now)
        desk.core.extend("a", taken.lease, taken.first, 1, desk.now)
        desk.ack(taken)
    assert len(desk.core._deadlines._heap) < 200


def test_who_stays_silent_is_cleaned_up_after_two_graces_and_its_work_is_claimed(desk):
    """S9: a stale consumer is cleaned up after 2 x grace and its work claimed."""
    desk.commit(3)
    desk.join("a", credit=3)
    desk.take()
    desk.advance(20)
    assert desk.core.take_silenced() == ["a"]
    desk.join("b", credit=9)
    assert desk.take().first == 0
    desk.advance(19)
    assert desk.core.take_stale() == []
    desk.advance(1)
    assert desk.core.take_stale() == ["a"]
    assert desk.core.take_stale() == []


def test_who_is_heard_of_again_is_not_stale(desk):
    """S9."""
    desk.commit(3)
    desk.join("a", credit=3)
    taken = desk.take()
    desk.advance(20)
    desk.core.renew("a", [taken.lease], desk.now)
    desk.advance(100)
    assert desk.core.take_stale() == []


def test_who_goes_before_it_is_told_of_is_not_stale(desk):
    """S9: nor is another one that comes by its name."""
    desk.commit(3)
    desk.join("a", credit=3)
    desk.take()
    desk.advance(20)
    desk.advance(20)
    desk.die("a")
    desk.join("a", credit=3)
    assert desk.core.take_stale() == []


def test_who_asked_for_more_time_is_not_stale_before_that_is_over(desk):
    """S9: an extension is a promise of the sink."""
    desk.commit(3)
    desk.join("a", credit=3)
    taken = desk.take()
    desk.core.extend("a", taken.lease, 0, 300, desk.now)
    desk.advance(20)
    assert desk.core.take_silenced() == ["a"]
    for _ in range(13):
        desk.advance(20)
    assert desk.core.take_stale() == []
    desk.advance(20)
    desk.advance(20)
    desk.advance(20)
    assert desk.core.take_stale() == ["a"]

import pytest

from dq.core.notes import TEXT_CHARS_MAX

DLQ = ("emails-dlq", 0)


def give_one(desk, shard=("emails", 0), credit=100):
    desk.commit(1, shard)
    desk.join("a", credit=credit)
    return desk.take()


def test_a_retried_record_comes_back_after_the_backoff_with_an_attempt_burned(desk):
    taken = give_one(desk)
    desk.retry(taken, error="ValueError: no")
    assert desk.take() is None
    due = desk.core.next_deadline()
    assert 0.04 <= due - desk.now <= 0.06
    assert desk.advance(due - desk.now) == 1
    again = desk.take()
    assert (again.attempt, again.offer.errors, again.offer.alone) == (2, {0: "ValueError: no"}, False)


@pytest.mark.parametrize(("after", "seconds"), [(0, 0), (3.5, 3.5), (-1, 0)])
def test_a_wish_for_the_delay_counts(desk, after, seconds):
    desk.retry(give_one(desk), after=after)
    assert desk.core.next_deadline() == desk.now + seconds


@pytest.mark.parametrize("after", [float("nan"), float("inf")])
def test_a_delay_that_is_no_number_is_the_backoff(desk, after):
    desk.retry(give_one(desk), after=after)
    assert desk.core.next_deadline() - desk.now < 0.1


def test_a_retried_record_goes_with_its_neighbours_again(desk):
    desk.commit(4)
    desk.join("a", credit=100)
    taken = desk.take()
    desk.retry(taken, 1, after=1, error="one")
    desk.retry(taken, 2, after=1, error="")
    desk.core.release("a", taken.lease, [(0, 4)], desk.now)
    desk.advance(1)
    again = desk.take()
    assert again.range == (0, 4)
    assert again.offer.attempts == {1: 1, 2: 1}
    assert again.offer.errors == {1: "one"}


def test_an_offer_names_attempts_of_its_own_records_alone(desk):
    desk.commit(50)
    desk.join("a", credit=100)
    taken = desk.take()
    for offset in range(10, 20):
        desk.retry(taken, offset, after=0)
    desk.advance(1)
    desk.core.release("a", taken.lease, [(0, 50)], desk.now)
    assert desk.take(5).offer.attempts.keys() == set(range(10, 20))
    assert desk.take(10).offer.attempts.keys() == set(range(10, 20))
    assert desk.take().offer.attempts.keys() == set(range(15, 20))


def test_after_max_attempts_a_record_is_dead_lettered_and_settled_once_that_is_stored(make_desk):
    desk = make_desk(max_attempts=3)
    taken = give_one(desk)
    for attempt in (1, 2, 3):
        assert taken.attempt == attempt
        desk.retry(taken, error=f"boom {attempt}")
        desk.advance(10)
        taken = desk.take()
    assert taken is None
    [letter] = desk.core.dead_letters()
    assert (letter.intent, letter.attempts, letter.reason, letter.error, letter.consumer) == (
        0,
        3,
        "max_attempts",
        "boom 3",
        "a",
    )
    assert desk.floor == 0
    desk.core.dead_letter_stored("emails", 0)
    desk.core.dead_letter_stored("emails", 0)
    desk.core.dead_letter_stored("unknown", 7)
    assert desk.floor == 1
    assert desk.core.dead_letters() == []
    assert (desk.core.stats().dead_lettered, desk.core.stats().settled) == (1, 1)


def test_with_one_attempt_the_first_failure_is_the_last(make_desk):
    desk = make_desk(max_attempts=1)
    desk.retry(give_one(desk))
    assert desk.shard().dying == 1


def test_a_handler_can_give_a_record_up(desk):
    taken = give_one(desk)
    desk.core.dead_letter("a", taken.lease, 0, "bad address", "ValueError", desk.now)
    [letter] = desk.core.dead_letters()
    assert (letter.reason, letter.error, letter.attempts) == ("bad address", "ValueError", 1)
    assert desk.core.stats().consumers["a"].in_hand == 0


def test_intents_are_counted_for_each_stream_and_told_in_order(make_desk):
    desk = make_desk(shards=[("emails", 0), ("emails", 1), ("audit", 0)])
    desk.join("a", credit=100)
    for shard in [("emails", 1), ("audit", 0), ("emails", 0), ("audit", 0)]:
        desk.commit(1, shard)
        taken = desk.take()
        desk.core.dead_letter("a", taken.lease, taken.first, "bad", "", desk.now)
    told = [(letter.stream, letter.intent, letter.bucket) for letter in desk.core.dead_letters()]
    assert told == [("audit", 0, 0), ("audit", 1, 0), ("emails", 0, 1), ("emails", 1, 0)]
    desk.core.dead_letter_stored("emails", 1)
    assert [letter.intent for letter in desk.core.dead_letters() if letter.stream == "emails"] == [0]


def test_a_dead_letter_is_never_dead_lettered(make_desk):
    desk = make_desk(shards=[DLQ], max_attempts=2)
    taken = give_one(desk, DLQ)
    for attempt in range(1, 6):
        assert taken.attempt == attempt
        desk.retry(taken)
        wait = desk.core.next_deadline() - desk.now
        assert (wait < 1) == (attempt < 2), "from max_attempts on it waits for the longest time"
        desk.advance(wait)
        taken = desk.take()
    assert desk.core.dead_letters() == []


def test_giving_up_a_dead_letter_is_a_retry(make_desk):
    desk = make_desk(shards=[DLQ])
    taken = give_one(desk, DLQ)
    desk.core.dead_letter("a", taken.lease, 0, "bad", "", desk.now)
    assert desk.core.dead_letters() == []
    desk.advance(1)
    assert desk.take().offer.errors == {0: "bad"}


def test_a_deadly_dead_letter_waits_for_the_longest_time_and_stays_alone(make_desk):
    desk = make_desk(shards=[DLQ], max_attempts=1)
    give_one(desk, DLQ)
    desk.die("a")
    assert desk.core.dead_letters() == []
    assert desk.core.next_deadline() - desk.now >= 4
    desk.join("b", credit=5)
    desk.commit(5, DLQ)
    desk.ack(desk.take())
    desk.advance(6)
    desk.core.grant("b", 10)
    assert desk.take().offer.alone


def test_long_or_broken_texts_do_not_fill_or_break_the_log(desk):
    desk.retry(give_one(desk), error="\ud800" + "x" * 10**6)
    [note] = [note for note in desk.notes() if "retry" in note]
    assert len(note["error"]) == TEXT_CHARS_MAX

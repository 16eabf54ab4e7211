"""Records that a sink passes over: they do not match its filter, or were taken out of their stream."""

import orjson
import pytest

from dq.core.sink import ShardStart
from dq.core.states import IllegalStep
from dq.errors import InUse

EMAILS = ("emails", 0)
both = pytest.mark.parametrize("snapshot", [False, True], ids=["notes", "snapshot"])


def counts(desk):
    stats = desk.core.stats()
    return stats.settled, stats.filtered, stats.removed


# --- filters -----------------------------------------------------------------------------------------------------------


@both
def test_what_does_not_match_is_settled_unseen_and_counted_apart(desk, snapshot):
    """S7 better: filtered events are settled for that sink."""
    desk.commit(10)
    desk.join("a", credit=10)
    desk.core.skip(desk.core.offer(), 4)
    assert desk.floor == 4
    assert counts(desk) == (0, 4, 0)
    assert desk.notes()[-1] == {"skip": [[0, 4]], "stream": "emails", "bucket": 0}
    desk.restart(snapshot=snapshot)
    assert counts(desk) == (0, 4, 0)
    desk.join("b", credit=10)
    assert desk.take().range == (4, 10)


def test_more_may_be_skipped_than_the_consumer_asked_for(desk):
    """S7: a filter that passes over whole batches does not wait for credit."""
    desk.commit(1_000)
    desk.join("a", credit=1)
    desk.core.skip(desk.core.offer(), 900)
    assert desk.take().range == (900, 901)


def test_a_skip_ends_where_the_commits_end(desk):
    desk.commit(5)
    desk.join("a", credit=9)
    desk.core.skip(desk.core.offer(), 100)
    assert (desk.floor, desk.shard().next) == (5, 5)
    desk.commit(2)
    assert desk.take().range == (5, 7)


def test_what_came_back_can_be_skipped(desk):
    desk.commit(10)
    desk.join("a", credit=10)
    desk.core.release("a", desk.take().lease, [(2, 5)], desk.now)
    desk.core.grant("a", 10)
    desk.core.skip(desk.core.offer(), 2)
    assert desk.take().range == (4, 5)


def test_a_suspect_can_be_skipped(desk):
    desk.commit(3)
    desk.join("a", "b", credit=3)
    desk.take()
    desk.die("a")
    offer = desk.core.offer()
    assert offer.alone
    desk.core.skip(offer, 1, "remove")
    assert desk.take().first == 1


@pytest.mark.parametrize("out", [(0, 2), (8, 10), (4, 6)], ids=["the head", "the tail", "the middle"])
@both
def test_a_mixed_batch_is_one_lease_without_what_does_not_match(desk, out, snapshot):
    """S7 better: filtered events are settled for that sink."""
    desk.commit(10)
    desk.join("a", credit=10)
    lease = desk.core.lease(desk.core.offer(), 10, 800, desk.now, [out])
    [figures] = desk.core.stats().consumers.values()
    assert (figures.in_hand, figures.in_hand_bytes, figures.credit) == (8, 800, 2)
    desk.restart(snapshot=snapshot)
    assert desk.core.rejoin("a", [lease], desk.now) == [lease]
    assert desk.core.ack("a", lease, [(0, 10)], desk.now) == 8
    assert desk.floor == 10
    assert counts(desk) == (8, 2, 0)


def test_what_was_left_out_of_a_lease_does_not_come_back_with_it(desk):
    desk.commit(6)
    desk.join("a", "b", credit=10)
    desk.core.lease(desk.core.offer(), 6, 400, desk.now, [(0, 1), (3, 4)])
    desk.core.leave("a", desk.now)
    assert [taken.range for taken in desk.take_all()] == [(1, 3), (4, 6)]
    assert desk.core.stats().redelivered == 4


def test_a_lease_may_reach_further_by_what_it_leaves_out(desk):
    """S7: one record asked for, in a batch of a hundred."""
    desk.commit(100)
    desk.join("a", credit=1)
    desk.core.lease(desk.core.offer(), 100, 200, desk.now, [(0, 50), (51, 100)])
    assert (desk.core.stats().consumers["a"].in_hand, desk.shard().next) == (1, 100)


@pytest.mark.parametrize(
    ("count", "without"), [(5, [(0, 5)]), (6, [(0, 1), (2, 6)]), (6, [(0, 1)]), (4, [])], ids=["all", "more", "less", "none"]
)
def test_a_lease_that_leaves_out_too_much_or_too_little_is_refused(desk, count, without):
    desk.commit(5)
    desk.join("a", credit=3)
    offer, before = desk.core.offer(), desk.core.snapshot()
    with pytest.raises(IllegalStep, match="nothing was changed"):
        desk.core.lease(offer, count, 100, desk.now, without)
    assert desk.core.snapshot() == before


def test_of_what_came_back_no_more_is_leased_than_was_offered(desk):
    """Its attempts are in the offer; those of more are not."""
    desk.commit(6)
    desk.join("a", credit=6)
    desk.core.release("a", desk.take().lease, [(0, 6)], desk.now)
    desk.core.grant("a", 2)
    offer = desk.core.offer()
    assert offer.count_max == 2
    with pytest.raises(IllegalStep, match="was not offered"):
        desk.core.lease(offer, 4, 100, desk.now, [(0, 2)])


def test_a_skip_that_is_out_of_date_is_refused(desk):
    desk.commit(5)
    desk.join("a", credit=5)
    offer = desk.core.offer()
    desk.take(3)
    before = desk.core.snapshot()
    with pytest.raises(IllegalStep, match="nothing was changed"):
        desk.core.skip(offer, 1)
    with pytest.raises(IllegalStep, match="nothing was changed"):
        desk.core.skip(desk.core.offer(), 0)
    assert desk.core.snapshot() == before


# --- what is taken out of the stream -------------------------------------------------------------------------------------


@both
def test_a_record_taken_out_of_the_stream_is_never_delivered(desk, snapshot):
    """S2: `remove(ids)`; it waits, and waited behind others."""
    desk.commit(10)
    assert desk.core.removed(EMAILS, [(0, 2), (5, 6)]) == 2
    desk.join("a", credit=20)
    assert [taken.range for taken in desk.take_all()] == [(2, 5), (6, 10)]
    assert counts(desk) == (0, 0, 3)
    assert desk.core.removed(EMAILS, [(0, 2), (5, 6)]) == 0, "told once more"
    desk.restart(snapshot=snapshot)
    assert desk.core.removed(EMAILS, [(0, 2), (5, 6)]) == 0, "as the broker does at its start"
    assert counts(desk) == (0, 0, 3)


def test_one_that_is_not_committed_yet_is_remembered(desk):
    """S2: told by one pipe before the commit by another."""
    desk.core.removed(EMAILS, [(1, 3)])
    desk.join("a", credit=9)
    desk.commit(2)
    assert desk.take().range == (0, 1)
    assert desk.shard().next == 2
    desk.commit(2)
    assert desk.take().range == (3, 4)
    assert desk.shard().waiting == 0


@pytest.mark.parametrize("fate", ["ack", "release", "retry", "leave", "die", "expire"])
def test_one_in_a_hand_stays_there_and_does_not_come_back(desk, fate):
    """S2: it is being worked on; whatever comes of that, it is over then."""
    desk.commit(3)
    desk.join("a", credit=3)
    taken = desk.take()
    assert desk.core.removed(EMAILS, [(1, 2)]) == 0
    assert desk.shard().in_hand == 3
    if fate == "ack":
        assert desk.ack(taken) == 3
    elif fate == "release":
        desk.core.release("a", taken.lease, [(0, 3)], desk.now)
    elif fate == "retry":
        for offset in range(3):
            desk.retry(taken, offset)
    elif fate == "leave":
        desk.core.leave("a", desk.now)
    elif fate == "die":
        desk.die("a")
    desk.advance(100)
    desk.join("b", credit=9)
    offered = []
    while (taken := desk.take()) is not None:
        offered += range(*taken.range)
        desk.ack(taken)
    assert offered == ([] if fate == "ack" else [0, 2])
    assert desk.floor == 3
    assert counts(desk) == ((3, 0, 0) if fate == "ack" else (2, 0, 1))


def test_one_that_comes_back_from_a_hand_does_not_stand_in_the_way(desk):
    desk.commit(2)
    desk.join("a", credit=2)
    taken = desk.take()
    desk.core.removed(EMAILS, [(0, 1)])
    desk.core.release("a", taken.lease, [(0, 2)], desk.now)
    assert counts(desk) == (0, 0, 1)
    desk.core.grant("a", 2)
    assert desk.take().range == (1, 2)


@pytest.mark.parametrize("state", ["returned", "delayed", "suspect"])
def test_one_that_waits_to_be_tried_again_is_settled_now(desk, state):
    desk.commit(4)
    desk.join("a", credit=4)
    taken = desk.take()
    if state == "returned":
        desk.core.release("a", taken.lease, [(1, 3)], desk.now)
    elif state == "delayed":
        desk.retry(taken, 1, after=50)
        desk.retry(taken, 2, after=50)
    else:
        desk.die("a")
    assert desk.core.removed(EMAILS, [(1, 3)]) == 2
    assert desk.kinds()[-1] == "remove"
    figures = desk.shard()
    assert figures.delayed == 0
    assert figures.suspect == (2 if state == "suspect" else 0)
    assert desk.advance(60) >= 0


def test_below_the_floor_and_of_an_unknown_shard_nothing_is_to_be_removed(desk):
    desk.commit(5)
    desk.join("a", credit=5)
    desk.ack(desk.take())
    desk.notes()
    assert desk.core.removed(EMAILS, [(0, 5)]) == 0
    assert desk.core.removed(("unknown", 3), [(0, 5)]) == 0
    assert desk.notes() == []
    assert counts(desk) == (5, 0, 0)


@both
def test_what_is_trimmed_after_it_was_removed_is_not_missed(desk, snapshot):
    """S2: nobody waited for it any more."""
    desk.commit(10)
    desk.core.removed(EMAILS, [(3, 6)])
    assert desk.core.trimmed(EMAILS, 8) == 5
    desk.restart(snapshot=snapshot)
    assert (desk.core.stats().missed, desk.core.stats().removed) == (5, 3)


def test_what_was_removed_from_an_end_that_was_lost_says_nothing_of_what_stands_there_next(desk):
    desk.commit(10)
    desk.core.removed(EMAILS, [(2, 3), (8, 9)])
    desk.core.add_shard(EMAILS, 0, "uuid-1", 2, [ShardStart(2, 6, True)])
    desk.core.committed(EMAILS, 10)
    desk.join("a", credit=20)
    assert [taken.range for taken in desk.take_all()] == [(0, 2), (3, 10)]


# --- pause, seek, leave --------------------------------------------------------------------------------------------------


@both
def test_a_paused_sink_offers_nothing_and_takes_acks(desk, snapshot):
    """S6: a sink that is paused stays so over a restart."""
    desk.commit(10)
    desk.join("a", credit=5)
    taken = desk.take()
    desk.core.grant("a", 5)
    desk.core.pause()
    desk.core.pause()
    assert desk.core.paused
    assert desk.take() is None
    assert desk.ack(taken) == 5
    assert desk.kinds().count("paused") == 1
    desk.restart(snapshot=snapshot)
    desk.join("b", credit=5)
    assert desk.core.stats().paused
    assert desk.take() is None
    desk.core.resume()
    desk.core.resume()
    assert desk.take().range == (5, 10)


@both
def test_after_a_seek_back_what_was_settled_is_delivered_again(desk, snapshot):
    desk.commit(10)
    desk.join("a", credit=10)
    taken = desk.take()
    desk.ack(taken, (0, 6))
    desk.core.seek(EMAILS, 2)
    assert desk.core.stats().consumers["a"].in_hand == 0
    assert desk.ack(taken) == 0
    assert desk.core.stats().late_acks == 10
    assert (desk.floor, desk.shard().next, desk.shard().end) == (2, 2, 10)
    desk.restart(snapshot=snapshot)
    desk.join("b", credit=20)
    assert desk.take().range == (2, 10)


def test_after_a_seek_forward_nothing_below_is_delivered(desk):
    desk.commit(10)
    desk.join("a", credit=9)
    desk.retry(desk.take(3), 1, after=5)
    desk.core.seek(EMAILS, 7)
    desk.advance(10)
    assert [taken.range for taken in desk.take_all()] == [(7, 10)]


def test_a_seek_begins_attempts_anew_and_keeps_what_was_removed(desk):
    desk.commit(4)
    desk.join("a", credit=4)
    desk.core.removed(EMAILS, [(2, 3)])
    desk.retry(desk.take(), 0, after=1)
    desk.core.seek(EMAILS, 0)
    desk.core.grant("a", 9)
    taken = desk.take()
    assert (taken.range, taken.attempt) == ((0, 2), 1)
    assert desk.take().range == (3, 4)


def test_a_seek_is_refused_while_a_dead_letter_is_on_its_way(make_desk):
    desk = make_desk(max_attempts=1)
    desk.commit(4)
    desk.join("a", credit=4)
    taken = desk.take()
    desk.retry(taken, 1)
    before = desk.core.snapshot()
    with pytest.raises(InUse, match="emails/0 are becoming dead letters"):
        desk.core.seek(EMAILS, 0)
    assert desk.core.snapshot() == before
    assert desk.ack(taken) == 3
    desk.core.dead_letter_stored("emails", 0)
    desk.core.seek(EMAILS, 0)
    assert desk.floor == 0


def test_a_seek_in_an_unknown_shard_is_refused(desk):
    with pytest.raises(IllegalStep):
        desk.core.seek(("unknown", 0), 0)


def test_a_seek_away_from_the_last_suspect_lets_the_one_that_drained_for_it_go_on(make_desk):
    desk = make_desk(shards=[EMAILS, ("news", 0)])
    desk.commit(4)
    desk.join("a", "b", credit=2)
    desk.take_all()
    desk.die("a")
    desk.core.grant("b", 9)
    desk.commit(5, ("news", 0))
    assert desk.take() is None, "b drains"
    desk.core.seek(EMAILS, 4)
    assert desk.take().range == (0, 5)


@both
def test_a_sink_that_left_a_stream_knows_nothing_of_it(make_desk, snapshot):
    """S6: `remove_stream` while it runs."""
    desk = make_desk(shards=[EMAILS, ("news", 0)], max_attempts=1)
    desk.commit(5)
    desk.commit(5, ("news", 0))
    desk.join("a", credit=10)
    emails, news = sorted(desk.take_all(), key=lambda taken: taken.offer.shard)
    desk.retry(emails, 1)
    desk.core.forget_stream("emails")
    desk.core.forget_stream("emails")
    del desk.ends[EMAILS]
    assert desk.kinds().count("forget") == 1
    assert desk.core.floors() == {("news", 0): 0}
    assert desk.core.stats().consumers["a"].in_hand == 5
    assert desk.ack(emails) == 0
    assert desk.ack(news) == 5
    desk.restart(snapshot=snapshot)
    [letter] = desk.core.dead_letters()
    assert desk.core.is_stray(letter)
    desk.core.dead_letter_stored("emails", letter.intent)
    assert desk.core.dead_letters() == []
    desk.core.add_shard(EMAILS, 3, "uuid-1", 1)
    desk.core.committed(EMAILS, 5)
    desk.join("b", credit=10)
    assert desk.take().range == (3, 5)
    assert orjson.loads(desk.core.snapshot()[0])["next_intents"] == {"emails": 1}

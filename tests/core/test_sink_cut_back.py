"""A stream that lost its end: what was given out of it is gone, what stands there next is new."""

from __future__ import annotations

import pytest

from dq.core.sink import ShardStart
from dq.errors import Damaged

EMAILS = ("emails", 0)
both = pytest.mark.parametrize("snapshot", [False, True], ids=["from notes", "from a snapshot"])


def reopen(desk, end: int, epoch: int = 2, lossy: bool = True, *earlier: ShardStart) -> int:
    desk.ends[EMAILS] = end
    gone = desk.core.add_shard(EMAILS, 0, "uuid-1", epoch, [*earlier, ShardStart(epoch, end, lossy)])
    desk.core.committed(EMAILS, end)
    return gone


@both
def test_a_cursor_beyond_the_end_goes_back_to_it_and_what_comes_next_is_delivered(desk, snapshot):
    desk.commit(100)
    desk.join("a", credit=60)
    taken = desk.take()
    desk.ack(taken, (0, 50))
    # When the stream comes back with 30 records
    assert reopen(desk, 30) == 30
    desk.restart(snapshot=snapshot) if snapshot else None
    # Then the sink stands there, and the 30 that it knew beyond are counted
    assert (desk.floor, desk.shard().next, desk.core.stats().cut_back) == (30, 30, 30)
    desk.join("b", credit=100)
    assert desk.take() is None
    desk.commit(70)
    assert desk.take().range == (30, 100)


def test_a_late_ack_of_what_is_gone_settles_nothing_of_what_stands_there_now(desk):
    desk.commit(100)
    desk.join("a", credit=100)
    taken = desk.take()
    reopen(desk, 40)
    desk.commit(60)
    desk.join("b", credit=100)
    # When the old consumer acks what it had, though other records have those offsets now
    assert desk.ack(taken) == 0
    # Then all of them are delivered, also those below the cut that it had in hand
    assert sorted(each.range for each in desk.take_all()) == [(0, 40), (40, 100)]


def test_what_burned_attempts_waited_or_was_settled_out_of_order_beyond_the_end_is_forgotten(desk):
    desk.commit(20)
    desk.join("a", credit=20)
    taken = desk.take()
    desk.retry(taken, 12, after=5.0)
    desk.ack(taken, (15, 18))
    desk.core.dead_letter("a", taken.lease, 13, "bad", "", desk.now)
    assert reopen(desk, 10) == 10
    desk.commit(10)
    desk.join("b", credit=50)
    desk.advance(60)
    assert [(each.range, each.attempt) for each in desk.take_all()] == [((0, 10), 1), ((10, 20), 1)]
    # And the intent stands, for its number is a sequence number, but it settles nothing
    [letter] = desk.core.dead_letters()
    assert desk.core.is_stray(letter)
    desk.core.dead_letter_stored("emails", letter.intent)
    assert desk.shard().dying == 0
    assert desk.core.stats().settled == 3


def test_the_lowest_end_since_the_epoch_that_the_sink_knows_counts(desk):
    desk.commit(50)
    desk.join("a", credit=50)
    desk.ack(desk.take())
    assert reopen(desk, 80, 4, True, ShardStart(2, 10, True), ShardStart(3, 90, True)) == 40
    assert desk.floor == 10


def test_an_epoch_that_lost_nothing_changes_nothing(desk):
    desk.commit(50)
    desk.join("a", credit=20)
    taken = desk.take()
    assert reopen(desk, 50, 2, lossy=False) == 0
    assert desk.ack(taken) == 20
    assert desk.core.stats().cut_back == 0


@both
def test_a_stream_that_may_not_lose_anything_and_did_is_damage_until_it_is_accepted(desk, snapshot):
    """R9; bad input 10; bad input 24: what a sink's log refers to lies beyond the end of the log."""
    desk.commit(50)
    desk.join("a", credit=40)
    desk.ack(desk.take())
    desk.notes()
    with pytest.raises(
        Damaged, match="'emails', bucket 0 ended at offset 30 when it was opened, and records up to 40 had been given out"
    ):
        reopen(desk, 30, 2, lossy=False)
    assert (desk.floor, desk.core.stats().cut_back, desk.notes()) == (40, 0, [])
    # It stays so after a restart, and also when the log has grown beyond it meanwhile
    with pytest.raises(Damaged):
        reopen(desk, 45, 3, False, ShardStart(2, 30, False))
    # Until a person accepts the loss
    assert desk.core.add_shard(EMAILS, 0, "uuid-1", 4, [ShardStart(2, 30, True), ShardStart(4, 45, True)]) == 10
    assert desk.floor == 30
    desk.restart(snapshot=snapshot) if snapshot else None


def test_what_is_told_of_the_end_before_a_cut_is_not_believed_after_it(desk):
    desk.commit(50)
    desk.join("a", credit=10)
    desk.ack(desk.take())
    reopen(desk, 20)
    desk.core.grant("a", 100)
    assert desk.take().range == (10, 20)

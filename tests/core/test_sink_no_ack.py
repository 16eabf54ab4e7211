"""S4: a sink without acks: what it hands out is settled, so that each record is delivered at most once."""

import pytest

both = pytest.mark.parametrize("snapshot", [False, True], ids=["notes", "snapshot"])


@pytest.fixture
def desk(make_desk):
    return make_desk(no_ack=True)


@both
def test_what_is_handed_out_is_settled_and_never_comes_again(desk, snapshot):
    """S4: `no_ack`: at most once, also over a kill."""
    desk.commit(10)
    desk.join("a", credit=6)
    taken = desk.take()
    assert taken.range == (0, 6)
    assert desk.notes()[-1] == {
        "deliver": taken.lease, "stream": "emails", "bucket": 0, "first": 0, "count": 6, "to": "a",
    }  # fmt: skip
    assert desk.floor == 6
    assert desk.core.stats().settled == 6
    desk.die("a")
    desk.restart(snapshot=snapshot)
    assert desk.core.stats().consumers == {}
    assert desk.core.stats().settled == 6
    desk.join("b", credit=10)
    again = desk.take()
    assert again.range == (6, 10)
    assert again.lease > taken.lease


def test_nothing_is_in_hand_and_nothing_expires(desk):
    """S4: `no_ack`."""
    desk.commit(10)
    desk.join("a", credit=4)
    desk.take()
    [figures] = desk.core.stats().consumers.values()
    assert (figures.in_hand, figures.in_hand_bytes, figures.leases, figures.credit, figures.settled) == (0, 0, 0, 0, 4)
    assert desk.core.next_deadline() is None
    assert desk.take() is None, "no credit is left"


def test_what_is_said_of_them_changes_nothing(desk):
    """S4: `no_ack`: an ack is no error, and not late."""
    desk.commit(4)
    desk.join("a", credit=4)
    taken = desk.take()
    desk.notes()
    assert desk.ack(taken) == 0
    desk.retry(taken)
    desk.core.release("a", taken.lease, [(0, 4)], desk.now)
    desk.core.dead_letter("a", taken.lease, 1, "bad", "", desk.now)
    assert desk.notes() == []
    assert desk.core.stats().late_acks == 0
    assert desk.core.stats().retried == 0


def test_a_filter_works_without_acks_too(desk):
    """S7 better: filtered events are settled for that sink."""
    desk.commit(10)
    desk.join("a", credit=3)
    desk.core.skip(desk.core.offer(), 2)
    desk.core.lease(desk.core.offer(), 6, 300, desk.now, [(3, 5), (6, 7)])
    stats = desk.core.stats()
    assert (stats.settled, stats.filtered, desk.floor, stats.consumers["a"].credit) == (3, 5, 8, 0)
    desk.restart()
    assert (desk.core.stats().settled, desk.core.stats().filtered, desk.floor) == (3, 5, 8)


def test_what_was_removed_is_not_handed_out(desk):
    desk.commit(6)
    desk.join("a", credit=9)
    desk.core.removed(("emails", 0), [(2, 4)])
    assert [taken.range for taken in desk.take_all()] == [(0, 2), (4, 6)]
    assert desk.floor == 6

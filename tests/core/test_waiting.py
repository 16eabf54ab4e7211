import pytest

from dq.core.leases import Hand
from dq.core.waiting import WaitingQueue


def idle_hand(name, records=0):
    hand = Hand(name)
    hand.credit = 10
    hand.records = records
    return hand


@pytest.fixture
def waiting():
    queue = WaitingQueue(bytes_max=1_000)
    for name in "abc":
        queue.add(idle_hand(name))
    return queue


def names(waiting, count, without=None):
    return "".join(hand.name for _ in range(count) if (hand := waiting.next(without)))


def test_idle_consumers_are_served_in_turn(waiting):
    assert names(waiting, 7) == "abcabca"


def test_adding_one_that_waits_does_not_move_it(waiting):
    first = waiting.next()
    waiting.add(first)
    assert names(waiting, 3) == "bca"


def test_one_can_be_passed_over(waiting):
    passed = waiting.next()
    assert names(waiting, 4, passed) == "bcbc"
    assert "a" in names(waiting, 3)


@pytest.mark.parametrize(("field", "value"), [("credit", 0), ("size", 1_000), ("alone", True), ("silent", True)])
def test_one_that_is_not_idle_gets_nothing_until_it_is_again(waiting, field, value):
    hand = waiting.next()
    before = getattr(hand, field)
    setattr(hand, field, value)
    assert not waiting.idle(hand)
    assert names(waiting, 4) == "bcbc"
    waiting.add(hand)
    assert names(waiting, 2) == "bc"
    setattr(hand, field, before)
    waiting.add(hand)
    assert names(waiting, 3) == "bca"


def test_who_is_served_out_of_turn_goes_to_the_back(waiting):
    first = waiting.next()
    second = waiting.next()
    waiting.serve(first)
    waiting.serve(second)
    assert [waiting.next().name for _ in range(3)][1:] == [first.name, second.name]
    waiting.remove(first)
    waiting.serve(first)
    assert first not in [waiting.next() for _ in range(3)]


def test_nobody_is_next_when_nobody_waits(waiting):
    for hand in [waiting.next() for _ in range(3)]:
        waiting.remove(hand)
        waiting.remove(hand)
    assert waiting.next() is waiting.least() is None


def test_least_is_the_one_with_the_fewest_records():
    queue = WaitingQueue(1_000)
    for name, records in [("a", 5), ("b", 2), ("c", 2), ("d", 0)]:
        queue.add(idle_hand(name, records))
    assert queue.least().name == "d"
    queue.least().credit = 0
    assert queue.least().name == "b"

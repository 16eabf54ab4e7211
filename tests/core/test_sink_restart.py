import orjson
import pytest

from dq.core.sink import SinkCore
from dq.errors import Damaged
from dq.model.settings import SinkSettings

EMAILS = ("emails", 0)
both = pytest.mark.parametrize("snapshot", [False, True], ids=["from notes", "from a snapshot"])


@both
def test_what_was_settled_before_a_restart_is_never_offered_again(desk, snapshot):
    desk.commit(10)
    desk.join("a", credit=10)
    taken = desk.take()
    desk.ack(taken, (0, 3), (5, 7))
    desk.restart(snapshot=snapshot)
    desk.advance(5)
    desk.join("b", credit=100)
    assert [(each.range, each.attempt) for each in desk.take_all()] == [((3, 5), 1), ((7, 10), 1)]


@both
def test_a_consumer_that_returns_keeps_its_leases(desk, snapshot):
    desk.commit(10)
    desk.join("a", credit=10)
    first, second = desk.take(5), desk.take(5)
    desk.ack(first, (0, 2))
    desk.restart(snapshot=snapshot)
    assert desk.core.offer() is None
    assert not desk.core.stats().consumers["a"].joined
    desk.advance(4)
    assert desk.core.rejoin("a", [second.lease, first.lease, 77], desk.now) == [first.lease, second.lease]
    assert desk.advance(19) == 0
    assert desk.ack(first, (2, 5)) + desk.ack(second) == 8
    assert desk.floor == 10


@both
def test_what_a_returning_consumer_does_not_name_comes_back_unburned(desk, snapshot):
    desk.commit(10)
    desk.join("a", credit=10)
    first, second = desk.take(5), desk.take(5)
    desk.restart(snapshot=snapshot)
    assert desk.core.rejoin("a", [second.lease], desk.now) == [second.lease]
    desk.core.grant("a", 10)
    again = desk.take()
    assert (again.range, again.attempt, again.offer.alone) == (first.range, 1, False)


@both
def test_leases_of_a_consumer_that_does_not_return_come_back_unburned_in_5_seconds(desk, snapshot):
    desk.commit(10)
    desk.join("a", credit=10)
    taken = desk.take()
    desk.restart(snapshot=snapshot)
    desk.join("b", credit=10)
    desk.advance(4.9)
    assert desk.take() is None
    desk.advance(0.1)
    again = desk.take()
    assert (again.range, again.attempt, again.offer.alone) == ((0, 10), 1, False)
    assert "a" not in desk.core.stats().consumers
    desk.join("a")
    assert desk.ack(taken) == 10, "a late ack counts over restarts too"


@both
def test_a_new_consumer_of_the_same_id_has_nothing_in_hand(desk, snapshot):
    desk.commit(10)
    desk.join("a", credit=10)
    desk.take()
    desk.restart(snapshot=snapshot)
    desk.join("a", credit=5)
    assert desk.core.stats().consumers["a"].in_hand == 0
    assert desk.take().range == (0, 5)


@both
def test_a_lease_number_is_never_used_again(desk, snapshot):
    desk.commit(10)
    desk.join("a", credit=10)
    last = [desk.take(5), desk.take(5)][-1]
    desk.ack(last)
    desk.restart(snapshot=snapshot)
    desk.commit(10)
    desk.join("b", credit=10)
    assert desk.take().lease > last.lease


@both
def test_a_delay_starts_anew(desk, snapshot):
    desk.commit(1)
    desk.join("a", credit=10)
    desk.retry(desk.take(), after=7)
    desk.advance(5)
    desk.restart(snapshot=snapshot)
    assert desk.core.next_deadline() == desk.now + 7
    desk.advance(7)
    desk.join("b", credit=1)
    assert desk.take().offer.errors == {0: "boom"}


@both
def test_attempts_errors_and_suspicion_are_remembered(desk, snapshot):
    desk.commit(4)
    desk.join("a", credit=4)
    taken = desk.take()
    desk.retry(taken, 3, after=0, error="boom")
    desk.die("a")
    desk.restart(snapshot=snapshot)
    desk.advance(1)
    desk.join("b", credit=5)
    culprit = desk.take()
    assert (culprit.range, culprit.offer.alone) == ((0, 1), True)
    desk.restart(snapshot=snapshot)
    assert desk.core.rejoin("b", [culprit.lease], desk.now) == [culprit.lease]
    desk.core.grant("b", 5)
    assert desk.take() is None, "it still gets nothing else meanwhile"
    desk.die("b")
    desk.advance(1)
    desk.join("c", credit=9)
    again = desk.take()
    assert (again.range, again.attempt, again.offer.alone) == ((0, 1), 2, True)
    desk.ack(again)
    rest = {offset: each.attempt for each in desk.take_all(1) for offset in range(*each.range)}
    assert rest == {1: 1, 2: 1, 3: 2}


@both
def test_an_abandoned_record_stays_abandoned(desk, snapshot):
    desk.commit(3)
    desk.join("a", credit=3)
    taken = desk.take()
    desk.core.abandon("a", taken.lease, 1, desk.now)
    desk.restart(snapshot=snapshot)
    desk.core.rejoin("a", [taken.lease], desk.now)
    desk.advance(19)
    desk.core.renew("a", [taken.lease], desk.now)
    desk.advance(1)
    assert desk.core.stats().consumers["a"].in_hand == 2


@both
@pytest.mark.parametrize("before", ["the notes", "sending", "the end"])
def test_a_dead_letter_is_sent_until_it_is_stored_under_one_number(make_desk, before, snapshot):
    desk = make_desk(max_attempts=1)
    desk.commit(2)
    desk.join("a", credit=2)
    taken = desk.take()
    desk.notes()
    desk.retry(taken, 0)
    if before == "the notes":
        desk.core.take_notes()  # made, and lost with the broker: as if it had never been
    if before == "the end":
        desk.core.dead_letter_stored("emails", 0)
    desk.restart(snapshot=snapshot and before != "the notes")
    if before == "the notes":
        assert desk.core.dead_letters() == []
        assert desk.core.rejoin("a", [taken.lease], desk.now) == [taken.lease]
        desk.retry(taken, 0)
    sent = desk.core.dead_letters()
    assert [(letter.intent, letter.offset) for letter in sent] == ([] if before == "the end" else [(0, 0)])
    for letter in sent:
        desk.core.dead_letter_stored("emails", letter.intent)
    desk.restart(snapshot=snapshot)
    assert desk.core.dead_letters() == []
    assert desk.floor == 1
    desk.core.rejoin("a", [taken.lease], desk.now)
    desk.retry(taken, 1)
    assert [letter.intent for letter in desk.core.dead_letters()] == [1]


@both
def test_an_intent_outlives_its_stream(desk, snapshot):
    desk.commit(3)
    desk.join("a", credit=3)
    taken = desk.take()
    desk.core.dead_letter("a", taken.lease, 1, "bad", "", desk.now)
    desk.core.add_shard(EMAILS, 0, "uuid-2", 1)
    desk.notes()
    core = SinkCore("mailers", SinkSettings())
    for line in desk.core.snapshot() if snapshot else desk.log:
        core.replay(orjson.loads(line))
    core.recover(0.0)
    assert [letter.intent for letter in core.dead_letters()] == [0]
    core.join("b", 0.0)
    core.grant("b", 9)
    core.committed(EMAILS, 3)
    lease = core.lease(core.offer(), 3, 600, 0.0)
    core.dead_letter("b", lease, 1, "bad", "", 0.0)
    core.dead_letter_stored("emails", 0)
    assert core.stats().shards[EMAILS].dying == 1, "the first was of the old stream"
    core.dead_letter_stored("emails", 1)
    assert core.stats().shards[EMAILS].dying == 0


def test_a_snapshot_makes_all_before_it_void(make_desk):
    desk, other = make_desk(), make_desk(shards=[EMAILS, ("news", 0)])
    for each in (desk, other):
        each.commit(10)
        each.join("a", credit=10)
        each.ack(each.take(), (0, 5))
    other.core.dead_letter("a", 0, 7, "bad", "", other.now)
    other.die("a")
    snapshot = desk.core.snapshot()
    for line in snapshot + snapshot:
        other.core.replay(orjson.loads(line))
    assert other.core.snapshot() == snapshot


def test_notes_of_a_kind_that_is_not_known_are_passed_over_and_counted(desk):
    for note in ({"comet": 1, "at": 2}, {}):
        desk.core.replay(note)
    desk.core.replay({"cursor": 0, "stream": "news", "bucket": 0, "uuid": "u", "epoch": 1, "colour": "red"})
    assert desk.core.stats().notes_unknown == 2
    assert ("news", 0) in desk.core.floors()


@pytest.mark.parametrize(
    "note",
    [
        {"ack": 0, "stream": "unknown", "bucket": 0, "ranges": [[0, 1]]},
        {"ack": 0},
        {"release": 5, "stream": "emails", "bucket": 0, "ranges": [[0, 1]]},
        {"retry": 5, "stream": "emails", "bucket": 0, "offset": 0, "after": 1, "error": ""},
        {"cleared": 3},
        {"ack": 0, "stream": "emails", "bucket": 0, "ranges": "all"},
        {"lease": 9, "stream": "emails", "bucket": 0, "first": 5, "count": 2, "bytes": 1, "to": "a"},
    ],
)
def test_a_note_that_cannot_follow_those_before_it_is_damage(desk, note):
    with pytest.raises(Damaged, match="does not fit"):
        desk.core.replay(note)


def test_nothing_is_noted_by_a_replay(desk):
    desk.commit(5)
    desk.join("a", credit=5)
    desk.take()
    desk.die("a")
    desk.restart()
    assert desk.kinds() == ["start"]


def test_the_form_of_a_snapshot_is_what_it_always_was(desk):
    desk.commit(20)
    desk.join("a", "b", credit=10)
    taken, lost = desk.take(), desk.take()
    desk.ack(taken, (0, 2), (5, 6))
    desk.retry(taken, 7, after=0.5)
    desk.core.abandon("a", taken.lease, 8, desk.now)
    desk.core.extend("a", taken.lease, 9, 60, desk.now)
    desk.core.release("a", taken.lease, [(3, 4)], desk.now)
    desk.core.dead_letter("a", taken.lease, 4, "bad", "boom", desk.now)
    desk.ack(lost, (10, 18))
    desk.die("b")
    shard = {"stream": "emails", "bucket": 0}
    assert [orjson.loads(line) for line in desk.core.snapshot()] == [
        {
            "snapshot": 1,
            "next_lease": 2,
            "next_group": 1,
            "next_intents": {"emails": 1},
            "counters": {
                "settled": 11,
                "filtered": 0,
                "expired": 0,
                "removed": 0,
                "dropped": 0,
                "redelivered": 0,
                "retried": 1,
                "lost": 0,
                "dead_lettered": 0,
                "missed": 0,
                "cut_back": 0,
                "late_acks": 0,
                "ignored": 0,
            },
            "paused": False,
        },
        {
            "cursor": 2,
            **shard,
            "uuid": "uuid-1",
            "epoch": 1,
            "next": 20,
            "settled": [[5, 6], [10, 18]],
            "returned": [[3, 4]],
            "suspects": [[18, 20]],
            "delayed": [[7, 0.5]],
            "burned": [[7, 1, "boom", False]],
        },
        {
            "held": 0,
            **shard,
            "first": 0,
            "count": 10,
            "bytes": 800,
            "to": "a",
            "open": [[2, 3], [6, 7], [8, 10]],
            "left": [8],
            "alone": False,
        },
        {"ended": 1, **shard, "first": 10, "count": 10, "bytes": 0, "to": "b"},
        {"group": 0, "members": [["emails", 0, [[18, 20]]]]},
        {
            "dying": 0,
            **shard,
            "offset": 4,
            "attempts": 1,
            "reason": "bad",
            "error": "boom",
            "consumer": "a",
        },
    ]


def test_who_has_not_come_back_yet_cannot_die(desk):
    desk.commit(3)
    desk.join("a", credit=3)
    taken = desk.take()
    desk.restart()
    desk.die("a")
    assert desk.core.rejoin("a", [taken.lease], desk.now) == [taken.lease]
    assert desk.ack(taken) == 3

"""What is rebuilt from a sink's log against what the sink itself had: at any moment of any life."""

from __future__ import annotations

from random import Random

import pytest
from past_rig import SHARDS, WALL, Life, picture

from dq.core.states import State
from dq.history.events import events_of
from dq.history.moment import rebuilt_at, sink_then
from dq.history.rebuilt import Rebuilt, Said
from dq.history.values import Kind


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_the_state_at_a_moment_is_the_one_that_the_sink_had_then(seed: int, ordered: bool) -> None:
    # Given a sink that has been through a lot
    life = Life(seed, ordered=ordered)
    life.live(250)
    # When its state is rebuilt for a moment after each of some steps
    for at, stood in Random(seed).sample(life.pictures, min(25, len(life.pictures))):
        rebuilt = rebuilt_at(life.said, at)
        # Then it is the one that it had
        assert isinstance(rebuilt, Rebuilt), rebuilt
        assert picture(rebuilt.book) == stood, f"{at - WALL:.2f}"


@pytest.mark.parametrize("seed", range(6))
def test_the_biographies_of_all_records_end_where_the_sink_has_them(seed: int) -> None:
    life = Life(100 + seed)
    life.live(300)
    places = [(*shard, offset) for shard in SHARDS for offset in range(life.ends[shard])]
    past = events_of(life.said, "mailers", places)
    for stream, bucket, offset in places:
        ledger = life.core._book.ledgers[stream, bucket]
        state, told = past.states[stream, bucket, offset], past.of((stream, bucket, offset))
        # As the core has it; of a delay that is over nothing is noted
        assert state.state == ledger.state_of(offset).value or (state.state, ledger.state_of(offset)) in (
            ("delayed", State.WAITING),
            ("delayed", State.SUSPECT),
        )
        assert state.attempts >= ledger.attempts(offset)
        # Whatever was leased was told of, and whatever was settled says by what
        if offset < ledger.next:
            assert told, f"nothing is told of {stream}/{bucket}/{offset}"
        assert (state.by is None) <= (state.state != "settled")
        assert [event.at for event in told] == sorted(event.at for event in told)


def test_before_its_log_begins_nothing_is_made_up() -> None:
    life = Life(1)
    life.commit()
    life.note()
    assert "it began at" in str(rebuilt_at(life.said, WALL))
    snapshot = [Said(life.wall, said.note) for said in life.said]
    snapshot[0] = Said(life.wall, {"snapshot": 1, "next_lease": 0, "next_group": 0, "next_intents": {}, "counters": {}})
    assert "what was before" in str(rebuilt_at(snapshot, WALL))
    assert str(rebuilt_at([], WALL)) == "its log is empty"


def test_a_clock_that_is_set_back_hides_nothing() -> None:
    # Given a lease that was noted by a clock that was an hour ahead
    life = Life(1)
    life.commit()
    life.core.join("a", life.now)
    life.core.grant("a", 5)
    life.now += 3_600
    life.lease()
    life.note()
    life.now -= 3_599
    life.core.join("b", life.now)
    life.core.pause()
    life.note()
    # Then what was noted after it was set back comes with what had been noted before
    rebuilt = rebuilt_at(life.said, life.wall)
    assert isinstance(rebuilt, Rebuilt)
    assert picture(rebuilt.book) == picture(life.core._book)


def test_a_rolled_log_tells_how_what_was_before_had_ended() -> None:
    # Given records in hand, settled, and never leased, when a log begins anew
    life = Life(1)
    life.ends[SHARDS[0]] = 6
    life.core.committed(SHARDS[0], 6)
    life.core.join("a", life.now, pid=77)
    life.core.grant("a", 4)
    number = life.core.lease(life.core.offer(), 4, 100, life.now)
    life.core.ack("a", number, [(0, 2)], life.now)
    life.note()
    life.now += 1
    life.roll()
    life.now += 1
    life.core.ack("a", number, [(2, 3)], life.now)
    life.note()
    # When their biographies are asked for
    past = events_of(life.said, "mailers", [("emails", 0, offset) for offset in range(6)])
    # Then the one that was settled says that no more is known, and the one in hand who had it
    kinds = [[event.kind for event in past.of(("emails", 0, offset))] for offset in range(6)]
    assert kinds == [[Kind.KEPT], [Kind.KEPT], [Kind.KEPT, Kind.ACKED], [Kind.KEPT], [], []]
    assert past.states["emails", 0, 0].by is Kind.KEPT
    assert past.states["emails", 0, 2].by is Kind.ACKED
    held = past.of(("emails", 0, 3))[0]
    assert (held.consumer, held.pid, held.reason, held.lease) == ("a", 77, "leased", number)
    assert past.since == life.wall - 1
    assert past.states["emails", 0, 5].state == "waiting"


def test_a_delay_is_over_when_its_time_is_and_begins_anew_with_a_broker() -> None:
    # Given a record that waits for 5 s, and a broker that starts after 4
    life = Life(1)
    life.ends[SHARDS[0]] = 1
    life.core.committed(SHARDS[0], 1)
    life.core.join("a", life.now)
    life.core.grant("a", 1)
    life.core.retry("a", life.core.lease(life.core.offer(), 1, 100, life.now), 0, 5.0, "", life.now)
    life.note()
    place = ("emails", 0, 0)

    def state(seconds: float) -> str:
        return events_of(life.said, "mailers", [place], WALL + 1_000 + seconds).states[place].state

    assert (state(4.9), state(5.1)) == ("delayed", "waiting")
    life.now += 4
    life.restart()
    life.note()
    assert (state(8.9), state(9.1)) == ("delayed", "waiting")


def test_what_a_sink_had_of_a_stream_is_counted() -> None:
    life = Life(1)
    life.ends[SHARDS[0]] = 10
    life.core.committed(SHARDS[0], 10)
    life.core.join("a", life.now, pid=77)
    life.core.grant("a", 6)
    number = life.core.lease(life.core.offer(), 6, 100, life.now)
    life.core.ack("a", number, [(0, 2)], life.now)
    life.core.retry("a", number, 3, 5.0, "ValueError: no", life.now)
    life.core.dead_letter("a", number, 4, "no use", "", life.now)
    life.note()
    rebuilt = rebuilt_at(life.said, life.wall)
    assert isinstance(rebuilt, Rebuilt)
    then = sink_then(rebuilt, "mailers", "emails", {0: 10, 1: 0})
    assert then is not None
    assert (then.settled, then.waiting, then.in_hand, then.delayed, then.dying) == (2, 4, 2, 1, 1)
    [held] = then.held
    assert (held.consumer, held.pid, held.ranges, held.since) == ("a", 77, ((2, 3), (5, 6)), life.wall)
    assert [(each.record, each.attempts, each.state) for each in then.burned] == [("emails/0/3", 1, "delayed")]
    # The end of a bucket that is not kept is not guessed, and another stream is none of its business
    assert sink_then(rebuilt, "mailers", "emails", {0: None, 1: 0}).waiting is None  # type: ignore[union-attr]
    assert sink_then(rebuilt, "mailers", "news", {}) is None

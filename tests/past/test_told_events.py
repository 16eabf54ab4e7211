"""Each thing that can happen to a record in a sink, as it is told: its kind, whose doing it was, and in words."""

from __future__ import annotations

from collections.abc import Callable

import orjson
import pytest

from dq.core.sink import SinkCore
from dq.history.events import events_of
from dq.history.rebuilt import Said
from dq.history.values import SETTLED_BY, HistoryEvent, Kind, RecordState
from dq.history.words import _WORDS, sentence, standing
from dq.model.settings import SinkSettings

SHARD = ("emails", 0)
Act = Callable[[SinkCore], object]


def begun(**settings: object) -> SinkCore:
    """A sink over four records, with all of them in the hand of `a`, of process 4711."""
    core = SinkCore("mailers", SinkSettings.from_dict({"ack_grace": 20.0, **settings}))
    core.add_shard(SHARD, 0, "uuid", 1)
    core.committed(SHARD, 4)
    core.join("a", 0.0, pid=4711)
    core.grant("a", 4)
    take(core, 4)
    return core


def take(core: SinkCore, count: int = 1, now: float = 0.0) -> int:
    offer = core.offer()
    assert offer is not None
    return core.lease(offer, min(count, offer.count_max), 100, now)


def told(core: SinkCore, offset: int = 1) -> list[HistoryEvent]:
    """What is told of a record."""
    notes = [Said(float(n), orjson.loads(line)) for n, line in enumerate(core.take_notes())]
    return events_of(notes, "mailers", [(*SHARD, offset)]).of((*SHARD, offset))


def once_more(core: SinkCore, consumer: str, count: int, now: float = 0.0) -> None:
    core.join(consumer, now)
    core.grant(consumer, count)
    take(core, count, now)


def culprit(core: SinkCore) -> None:
    """`a` dies with all four, then `b` with the first of them alone: the others are innocent."""
    core.died("a", 0.0)
    once_more(core, "b", 1)
    core.died("b", 0.0)


def late(core: SinkCore) -> None:
    """What `a` left goes to `b`, and then `a` is done with it after all."""
    core.release("a", 0, [(1, 2)], 0.0)
    once_more(core, "b", 1)
    core.ack("a", 0, [(1, 2)], 0.0)


def restarted(core: SinkCore) -> None:
    core.recover(0.0)
    core.expire(10.0)


CASES: list[tuple[str, Act, list[Kind], str]] = [
    ("ack", lambda core: core.ack("a", 0, [(0, 4)], 0.0), [Kind.ACKED], "acked by a (pid 4711)"),
    ("drop", lambda core: core.drop("a", 0, [(1, 2)], 0.0), [Kind.DROPPED], "dropped by a (pid 4711)"),
    ("expired", lambda core: core.ack_expired("a", 0, [(1, 2)], 0.0), [Kind.EXPIRED], "had it, in the hand of a"),
    ("release", lambda core: core.release("a", 0, [(1, 2)], 0.0), [Kind.RELEASED], "given back unstarted by a (pid 4711)"),
    ("left", lambda core: core.leave("a", 0.0), [Kind.RELEASED], "given back: a (pid 4711) left"),
    ("not back", restarted, [Kind.RESTARTED, Kind.RELEASED], "a (pid 4711) did not come back to it"),
    ("retry", lambda core: core.retry("a", 0, 1, 2.5, "E: x\ntrace", 0.0), [Kind.FAILED], "4711): E: x; again after 2.5 s"),
    ("extend", lambda core: core.extend("a", 0, 1, 60, 0.0), [Kind.EXTENDED], "given 60 s more, asked for by a (pid 4711)"),
    ("abandon", lambda core: core.abandon("a", 0, 1, 0.0), [Kind.ABANDONED], "left unsettled by a (pid 4711)"),
    (
        "overdue",
        lambda core: (core.abandon("a", 0, 1, 0.0), core.renew("a", [0], 19.0), core.expire(21.0)),
        [Kind.ABANDONED, Kind.OVERDUE],
        "whose time for it was over; attempts burned: 1",
    ),
    ("suspect", lambda core: core.died("a", 0.0), [Kind.SUSPECTED], "lost with a (pid 4711) and others: consumer died"),
    ("silent", lambda core: core.expire(21.0), [Kind.SUSPECTED], "and others: lease expired"),
    ("cleared", culprit, [Kind.SUSPECTED, Kind.CLEARED], "another record was to blame"),
    ("dead", lambda core: core.dead_letter("a", 0, 1, "no use", "", 0.0), [Kind.GIVEN_UP], "after 1 attempt, no use"),
    ("put off", lambda core: core.retry("a", 0, 1, 900.0, "", 0.0), [Kind.PUT_OFF], "attempt 1 failed in a"),
    ("late", late, [Kind.RELEASED, Kind.LEASED, Kind.ACKED], "late: it was not in its hand any more"),
    ("sought", lambda core: core.seek(SHARD, 0), [Kind.SOUGHT], "the sink was moved"),
    ("sought on", lambda core: core.seek(SHARD, 3), [Kind.SOUGHT, Kind.BEFORE_START], "begins behind it"),
    ("anew", lambda core: core.add_shard(SHARD, 0, "uuid-2", 1), [Kind.SOUGHT], "its stream was made anew"),
    ("trimmed", lambda core: core.trimmed(SHARD, 3), [Kind.TRIMMED], "before it was settled"),
    ("forgotten", lambda core: core.forget_stream("emails"), [Kind.FORGOTTEN], "taken off its stream"),
]  # fmt: skip


@pytest.mark.parametrize(("act", "kinds", "words"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_happens_is_told(act: Act, kinds: list[Kind], words: str) -> None:
    core = begun()
    core._book.notes.wall = 0.0
    act(core)
    events = told(core)
    assert [event.kind for event in events] == [Kind.LEASED, *kinds]
    assert words in sentence(events[-1])


def test_an_innocent_and_a_culprit_are_told_apart() -> None:
    core = begun()
    culprit(core)
    lost = told(core, 0)
    assert [event.kind for event in lost] == [Kind.LEASED, Kind.SUSPECTED, Kind.LEASED, Kind.LOST]
    assert sentence(lost[2]) == "leased to b, attempt 1, alone"
    assert sentence(lost[3]) == "lost with b: consumer died; attempts burned: 1"


def test_an_ordered_sink_says_for_whom_a_record_was_given_back() -> None:
    core = begun(ordered=True)
    core.retry("a", 0, 0, 5.0, "", 0.0)
    assert sentence(told(core)[-1]) == "given back by a (pid 4711): one before it comes first"


def test_a_sink_without_acks_and_what_is_passed_over() -> None:
    core = SinkCore("mailers", SinkSettings(no_ack=True))
    core.add_shard(SHARD, 0, "uuid", 1)
    core.committed(SHARD, 6)
    core.join("a", 0.0, pid=4711)
    core.grant("a", 9)
    offer = core.offer()
    core.lease(offer, 2, 100, 0.0, [(0, 1)])
    core.skip(core.offer(), 1, "skip")
    core.skip(core.offer(), 1, "expire")
    core.removed(SHARD, [(4, 5)])
    notes = [Said(1.0, orjson.loads(line)) for line in core.take_notes()]
    past = events_of(notes, "mailers", [(*SHARD, offset) for offset in range(6)])
    assert [event.kind for event in past.events] == [
        Kind.SKIPPED, Kind.DELIVERED, Kind.SKIPPED, Kind.EXPIRED, Kind.REMOVED,
    ]  # fmt: skip
    assert past.states[(*SHARD, 1)].attempts == 0
    assert sentence(past.events[1]) == "delivered to a (pid 4711), and settled by that"


def test_a_stream_that_lost_its_end_says_so_of_what_stood_there() -> None:
    core = begun()
    core._book.cut_back(core._book.ledgers[SHARD], 1)
    assert [event.kind for event in told(core)] == [Kind.LEASED, Kind.CUT]


def test_all_that_can_happen_has_words_and_so_has_all_that_can_be() -> None:
    assert set(_WORDS) == set(Kind)
    for kind in Kind:
        assert sentence(HistoryEvent(at=None, kind=kind, record="s/0/0"))
    states = ("waiting", "leased", "delayed", "suspect", "isolated", "dying", "kept", "removed", "came", "replayed")
    for state in [RecordState(sink="w", record="s/0/0", state=name) for name in states] + [
        RecordState(sink="w", record="s/0/0", state="settled", by=by)
        for by in (*SETTLED_BY, Kind.GIVEN_UP, Kind.PUT_OFF, Kind.KEPT, None)
    ]:
        assert standing(state, str)

"""Priorities in the core: higher first, in order within one, and none starves."""

from __future__ import annotations

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from dq.config import LIMITS
from dq.core.sink import SinkCore
from dq.model.settings import SinkSettings


def core_with(backlogs: dict[int, int], *, ordered: bool = False) -> SinkCore:
    """A sink over one shard a priority, with so many records each, and an idle consumer."""
    core = SinkCore("mailers", SinkSettings(ordered=ordered))
    for lane, count in backlogs.items():
        core.add_shard(("emails", lane), 0, "uuid-1", 1, lane=lane)
        core.committed(("emails", lane), count)
    core.join("a", 0.0)
    core.grant("a", 50_000)
    return core


def handed_out(core: SinkCore) -> list[tuple[int, int]]:
    """(priority, offset) of all that is offered, one record an offer."""
    given: list[tuple[int, int]] = []
    while (offer := core.offer()) is not None:
        lease = core.lease(offer, 1, 100, 0.0)
        core.ack("a", lease, [(offer.first, offer.first + 1)], 0.0)
        given.append((offer.shard[1], offer.first))
    return given


@given(st.dictionaries(st.integers(0, 9), st.integers(1, 60), min_size=1), st.booleans())
@settings(max_examples=40, deadline=None)
def test_none_starves_and_each_keeps_its_order(backlogs, ordered) -> None:
    """H3: seven of eight offers go to the highest that waits; each is served within eight times their number."""
    given_out = handed_out(core_with(backlogs, ordered=ordered))
    assert sorted(given_out) == [(lane, offset) for lane in sorted(backlogs) for offset in range(backlogs[lane])]
    left, waited = dict(backlogs), dict.fromkeys(backlogs, 0)
    for place, (lane, offset) in enumerate(given_out, 1):
        assert offset == backlogs[lane] - left[lane]
        if place % LIMITS.priority_turn:
            assert lane == max(left)
        for other in left:
            waited[other] = 0 if other == lane else waited[other] + 1
            assert waited[other] <= LIMITS.priority_turn * len(backlogs)
        left[lane] -= 1
        if not left[lane]:
            del left[lane]


def test_what_is_urgent_overtakes_a_backlog_that_came_before() -> None:
    core = core_with({0: 1_000, 9: 0})
    first = core.offer()
    assert first is not None
    assert first.shard[1] == 0
    core.committed(("emails", 9), 2)
    assert [core.offer().shard[1] for _ in range(3)] == [9, 9, 9]  # type: ignore[union-attr]


def test_what_expired_is_settled_and_counted_apart() -> None:
    core = core_with({0: 10})
    offer = core.offer()
    assert offer is not None
    core.skip(offer, 4, "expire")
    offer = core.offer()
    assert offer is not None
    assert offer.first == 4
    lease = core.lease(offer, 6, 100, 0.0)
    assert core.ack_expired("a", lease, [(4, 6)], 0.0) == 2
    assert core.ack("a", lease, [(6, 10)], 0.0) == 4
    figures = core.stats()
    assert (figures.expired, figures.settled, figures.dropped, figures.dead_lettered) == (6, 4, 0, 0)
    assert figures.shards["emails", 0].floor == 10
    again = SinkCore("mailers", SinkSettings())
    for note in core.take_notes():
        again.replay(orjson.loads(note))
    assert (again.stats().expired, again.stats().settled) == (6, 4)

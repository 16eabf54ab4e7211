"""The publisher's core: which batch goes where, under which number, and what goes again over a new connection."""

from __future__ import annotations

import orjson

from dq.client.batcher import Batcher
from dq.client.drafts import Draft
from dq.client.ways import Way
from dq.config import LIMITS
from dq.core.buckets import bucket_of
from dq.errors import BrokerLost, DiskFull, SyncFailed
from dq.model.receipt import StoredRange


def test_what_was_refused_behind_another_batch_does_not_go_again_over_a_new_connection() -> None:
    """Else it could be stored behind what was sent after it, under a number that follows by then."""
    # Given two batches under way, of which the first is refused: the second will be refused for the gap before it
    sent: list[dict[str, object]] = []
    batcher = Batcher("s", 1, "sync", 1, 0.0, 0, lambda line, _: sent.append(orjson.loads(line)) or True)
    with batcher.lock:
        first, _ = batcher.add(b'{"payload":1}\n', None, None, urgent=True, now=0.0)
        second, _ = batcher.add(b'{"payload":2}\n', None, None, urgent=True, now=0.0)
        assert batcher.refused(0, 0, DiskFull("no room"))[0] is first
        # And a third one that is sent under the number of the first
        third, _ = batcher.add(b'{"payload":3}\n', None, None, urgent=True, now=0.0)
        sent.clear()
        # When the connection is lost before the second was answered
        refused = batcher.resend()
    # Then only the third goes again, and the second is known to be refused
    assert [(event["sequence"], event["again"]) for event in sent] == [(0, True)]
    assert [(draft, type(error)) for draft, error in refused] == [(second, DiskFull)]
    with batcher.lock:
        assert batcher.stored(0, 0, 7, 1)[0] is third
        assert batcher.idle


class Wire:
    """A batcher, and what it sends."""

    def __init__(self, buckets: int = 1, priorities: int = 1, batch_size: int = 1) -> None:
        self.sent: list[dict[str, object]] = []
        self.batcher = Batcher("s", buckets, "sync", batch_size, 0.0, 0, self._send, None, priorities)
        self.batcher.lock.acquire()  # as all its methods want it; nobody else has it

    def _send(self, line: bytes, _: object) -> bool:
        self.sent.append(orjson.loads(line))
        return True

    def add(self, key: str | None = None, **way: object) -> Draft:
        return self.batcher.add(b'{"payload":1}\n', key, None, urgent=True, now=0.0, way=Way(**way) if way else None)[0]

    def said(self) -> list[tuple[object, ...]]:
        """Since the last call: bucket, sequence, key for once, whether it goes again."""
        sent, self.sent[:] = list(self.sent), []
        return [(e["bucket"], e["sequence"], e.get("about", {}).get("once"), e.get("again", False)) for e in sent]


def test_records_with_a_key_for_once_have_numbers_of_their_own_and_doom_nothing():
    wire = Wire()
    plain, first, second, after = wire.add(), wire.add(once="a"), wire.add(once="b"), wire.add()
    assert wire.said() == [(0, 0, None, False), (0, 0, "a", False), (0, 1, "b", False), (0, 1, None, False)]
    assert wire.batcher.in_flight == len(list(wire.batcher.unanswered())) == 4
    # Answered in any order; a duplicate with the bucket of the first one
    assert wire.batcher.once_stored(1, 5, 70) == (second, StoredRange("s", 5, 70, 1))
    assert wire.batcher.once_stored(1, 5, 70) is None, "it was answered already"
    assert wire.batcher.once_refused(0, SyncFailed("no flush")) is None, "nobody knows yet"
    refused, error = wire.batcher.once_refused(0, DiskFull("no room"))
    assert (refused, type(error)) == (first, DiskFull)
    assert (plain.doomed, after.doomed) == (None, None)
    assert wire.batcher.stored(0, 0, 3, 1)[0] is plain
    assert wire.batcher.stored(0, 1, 4, 1)[0] is after
    assert wire.batcher.idle
    assert wire.batcher.waiting_bytes == 0


def test_what_is_not_answered_goes_again_in_the_order_in_which_it_was_sent():
    wire = Wire()
    for once in (None, "a", None, "b", None):
        wire.add(**({} if once is None else {"once": once}))
    wire.batcher.stored(0, 0, 0, 1)
    wire.said()
    assert wire.batcher.resend() == []
    assert wire.said() == [(0, 0, "a", True), (0, 1, None, True), (0, 1, "b", True), (0, 2, None, True)]
    # The stream was destroyed and made anew: all is sent as if for the first time
    wire.batcher.begin_anew()
    assert wire.batcher.in_flight == 0
    wire.batcher.resend()
    assert wire.said() == [(0, 2, "a", False), (0, 0, None, False), (0, 3, "b", False), (0, 1, None, False)]
    # It is given up: each is told, and nothing is left
    failed = wire.batcher.fail_all(BrokerLost("gone"))
    assert [type(error) for _, error in failed] == [BrokerLost] * 4
    assert wire.batcher.idle
    assert wire.batcher.once_stored(2, 0, 0) is None


def test_only_so_many_records_with_a_key_for_once_are_under_way_and_the_others_keep_their_place():
    wire = Wire()
    most = LIMITS.in_flight_once
    for number in range(most + 2):
        wire.add(once=str(number))
    wire.add()
    assert len(wire.said()) == most
    assert wire.batcher.window_full(0)
    wire.batcher.once_stored(7, 0, 0)
    assert wire.said() == [(0, most, str(most), False)]
    wire.batcher.once_stored(8, 0, 1)
    assert wire.said() == [(0, most + 1, str(most + 1), False), (0, 0, None, False)]


def test_a_priority_is_a_lane_of_buckets_that_takes_its_own_turns():
    wire = Wire(buckets=3, priorities=2)
    keyed = [wire.add(key=f"k{n}", priority=priority).bucket for n in range(20) for priority in (0, 1)]
    assert keyed == [priority * 3 + bucket_of(f"k{n}", 3) for n in range(20) for priority in (0, 1)]
    in_turn = [wire.add(priority=priority).bucket for _ in range(3) for priority in (0, 1)]
    assert in_turn == [0, 3, 1, 4, 2, 5]
    assert [wire.add().bucket, wire.add(priority=1, once="k").bucket // 3] == [0, 1]


def test_a_batch_says_when_the_first_and_when_all_of_its_records_have_expired():
    wire = Wire(batch_size=2)
    wire.add()
    wire.sent.clear()
    for first, second in ((7.0, 5.0), (7.0, None), (None, 5.0), (None, None)):
        for expires in (first, second):
            wire.add(**({} if expires is None else {"expires": expires}))
    wire.batcher.push_all()
    about = [event.get("about") for event in wire.sent]
    assert about == [{"expires": 5.0, "expired": 7.0}, {"expires": 7.0}, {"expires": 5.0}, None]
    wire.add(once="k", expires=9.0)
    assert wire.sent[-1]["about"] == {"once": "k", "expires": 9.0, "expired": 9.0}

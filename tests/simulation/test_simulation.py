"""T16: both brokers in one process over a played disk, clock, pipes and manager: what happens is drawn from a seed.

A run that fails tells its seed; `--simulation-seed=SEED --simulations=1` plays that one alone, the same in every interpreter.
"""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from sim_checker import BrokenPromise, Checker, Place, Sink
from sim_life import LAYOUT
from sim_world import World, simulate

from dq.broker.consumer_broker import ConsumerBroker
from dq.broker.post import Post
from dq.broker.sinks import Sinks
from dq.client.held_lease import HeldLease
from dq.core.matching import Matcher, Taken
from dq.core.offers import Offers
from dq.core.once_keys import OnceKeys
from dq.core.rules import Rules
from dq.core.sink import SinkCore
from dq.log.bucket_log import BucketLog
from dq.log.sink_log import SinkLog
from stage import announce

PARTS = 10  # so that the limit of time of a test holds for many seeds as well
KINDS = (
    "kills",
    "power cuts",
    "clean stops",
    "full disks",
    "failed flushes",
    "redelivered",
    "dead letters",
    "acks brought back",
    "in order",
    "without acks",
    "read",
    "records removed",
    "sinks destroyed",
    "streams destroyed",
    "sink: pause",
    "sink: seek",
    "sink: remove_stream",
    "stream: trim",
    "delayed",
    "delayed records come",
    "tried again much later",
    "once",
    "once: known",
    "expiring",
    "expired",
    "once: stored anew",
)
"""What a fair number of seeds must have met, or they show nothing."""
HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def quiet():
    """The brokers warn of every fault that is played."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def met() -> Counter[str]:
    """What all seeds together have met."""
    return Counter()


@pytest.mark.timeout(0)
@pytest.mark.parametrize("part", range(PARTS))
def test_whatever_happens_all_that_was_promised_is_true(part, met, request):
    """T16: nothing lost, nothing twice after its ack, nothing out of order, nothing trimmed too early, nothing stuck."""
    count, first = (request.config.getoption(f"--{name}") for name in ("simulations", "simulation-seed"))
    for seed in range(first + part, first + count, PARTS):
        try:
            met.update(simulate(seed).checker.counts)
        except Exception as error:
            error.add_note(f"seed {seed}: pytest tests/simulation/test_simulation.py --simulations=1 --simulation-seed={seed}")
            raise


def test_the_seeds_have_met_what_they_are_for(met, request, capsys):
    count = request.config.getoption("--simulations")
    if count < 100:
        pytest.skip("fewer than 100 seeds need not meet everything")
    announce(capsys, f"\n{count} worlds: {dict(sorted(met.items()))}\n")
    assert {kind: met[kind] for kind in KINDS if met[kind] < count // 20} == {}


def fingerprint(seed: int) -> str:
    """All that a world did to its disk and told its clients, in a few letters."""
    world, told = simulate(seed), hashlib.sha256()
    told.update(repr(sorted(world.checker.counts.items())).encode())
    for path in sorted(world.machine.disk().walk()):
        told.update(str(path).encode())
        if path.suffix == ".jsonl":
            told.update(world.machine.disk().content(path))
    return told.hexdigest()


def test_a_seed_plays_the_same_in_every_interpreter():
    # Given what a few seeds did here
    expected = [fingerprint(seed) for seed in range(3)]
    # When an interpreter with other hashes plays them
    code = (
        "import logging; logging.disable(50); from test_simulation import fingerprint; "
        "print(*[fingerprint(seed) for seed in range(3)])"
    )
    parts = [HERE, HERE.parent / "log", HERE.parent / "faults", *sys.path]
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(map(str, parts))}
    played = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    # Then they did the same
    assert played.stdout.split() == expected


# --- the checker objects ---------------------------------------------------------------------------------------------------


def found_by_some_seed(seeds: int = 40) -> str:
    """The objection of the first seed that has one."""
    for seed in range(seeds):
        try:
            simulate(seed)
        except AssertionError as error:
            return str(error)
    return ""


def test_a_receipt_before_the_flush_is_found(monkeypatch):
    # Given a log that tells of a flush it has not done
    monkeypatch.setattr(BucketLog, "_flush", lambda self, act: None)
    # Then some seed shows what is lost
    assert found_by_some_seed()


def test_a_confirmation_before_its_note_is_found(monkeypatch):
    # Given a sink's log that forgets one note in twenty
    write, calls = SinkLog.write, Counter()

    def forgetful(self):
        calls["all"] += 1
        if calls["all"] % 20 == 0:
            self._staged = []
        write(self)

    monkeypatch.setattr(SinkLog, "write", forgetful)
    # Then some seed shows it
    assert found_by_some_seed()


def test_a_dead_letter_that_is_sent_once_and_lost_is_found(monkeypatch):
    # Given a consumer broker that never sends a dead letter a second time
    monkeypatch.setattr(Post, "_resend_dead_letters", lambda self: None)
    # Then some seed does not come to its end
    assert "come to its end" in found_by_some_seed(80)


@pytest.fixture
def checker() -> Checker:
    """Of a stream `work`, one sink `left`, and record 1 at its first place."""
    checker = Checker()
    checker.sinks["left"], checker.over["work"], checker.durabilities["work"] = Sink(max_attempts=2), ["left"], "sync"
    checker.receipt(1, Place("work", 0, 0), late=False)
    return checker


def lease_note(offset: int) -> bytes:
    return b'{"lease":7,"stream":"work","bucket":0,"first":%d,"count":1,"bytes":9,"to":"c"}\n' % offset


def test_a_second_lease_after_the_confirmation_is_refused(checker):
    path = LAYOUT.sink("left") / "00000000000000000000.jsonl"
    checker.wrote(path, lease_note(0))
    checker.delivered("left", Place("work", 0, 0), 1, attempt=1)
    checker.decided("left", "ack", [1])
    checker.wrote(path, lease_note(0))  # it was not confirmed yet
    checker.confirmed("left", "ack", [1])
    with pytest.raises(BrokenPromise, match="leased again"):
        checker.wrote(path, lease_note(0))


def test_what_no_flush_covered_may_come_again_after_a_power_cut_alone(checker):
    path = LAYOUT.sink("left") / "00000000000000000000.jsonl"
    checker.confirmed("left", "ack", [1])
    checker.power_cut()
    checker.wrote(path, lease_note(0))
    assert checker.counts["acks brought back"] == 1
    checker.sinks["left"].may_lose = False
    checker.confirmed("left", "ack", [1])
    checker.flushed(path)
    checker.power_cut()
    with pytest.raises(BrokenPromise, match="leased again"):
        checker.wrote(path, lease_note(0))


@pytest.mark.parametrize(
    ("act", "objection"),
    [
        (lambda checker: checker.receipt(2, Place("work", 0, 0), late=False), "was record 1 and is 2"),
        (lambda checker: checker.receipt(1, Place("work", 0, 4), late=False), "record 1 is at"),
        (lambda checker: checker.delivered("left", Place("work", 0, 0), 5, attempt=1), "was record 1 and is 5"),
        (lambda checker: checker.delivered("left", Place("work", 0, 0), 1, attempt=3), "attempt 3 of 2"),
        (lambda checker: checker.check_end(), "never delivered"),
    ],
    ids=["another record at a place", "a record at two places", "another record delivered", "too many attempts", "undelivered"],
)
def test_what_cannot_be_is_refused(checker, act, objection):
    with pytest.raises(BrokenPromise, match=objection):
        act(checker)


def test_a_world_that_stands_still_is_found(monkeypatch):
    # Given a consumer broker that sleeps for ever
    monkeypatch.setattr(ConsumerBroker, "wait_seconds", lambda self: None)
    # Then the world says so, and how it stands
    assert "come to its end" in found_by_some_seed(10)


def test_a_filter_that_lets_all_through_is_found(monkeypatch):
    monkeypatch.setattr(Matcher, "of_batch", lambda self, topics: Taken.ALL)
    assert "was delivered to" in found_by_some_seed()


def test_an_ordered_sink_that_goes_on_behind_a_record_that_is_not_settled_is_found(monkeypatch):
    # Given the offers of a sink that keeps no order, and a core that does not look
    monkeypatch.setattr("dq.core.rules.OrderedOffers", Offers)
    monkeypatch.setattr("dq.core.sink.may_lease", lambda *_, **__: True)
    monkeypatch.setattr(Rules, "keep_order", lambda *_: None)
    # Then some seed shows it
    assert "was worked on while" in found_by_some_seed(80)


def test_a_paused_sink_that_leases_is_found(monkeypatch):
    monkeypatch.setattr(SinkCore, "offer", lambda self: self._offers.next())
    assert "leases though it is paused" in found_by_some_seed(80)


def test_a_mark_that_overtakes_its_epoch_is_found(monkeypatch):
    # Given a consumer broker that takes any word of a stream for one of the stream as it knows it
    monkeypatch.setattr(Sinks, "_is_now", lambda *_: True)
    # Then some seed shows what is taken for damage
    assert found_by_some_seed(120)


def test_a_record_that_is_handed_out_after_its_time_is_found(monkeypatch):
    monkeypatch.setattr(HeldLease, "hands_out", lambda *_: True)
    assert "after it had expired" in found_by_some_seed()


def test_a_record_that_is_passed_over_before_its_time_is_found(monkeypatch):
    monkeypatch.setattr("dq.broker.expiry._is_over", lambda about, wall: about is not None and "expired" in about)
    assert "which is of use still" in found_by_some_seed()


def test_a_delayed_record_that_comes_too_early_is_found(monkeypatch):
    monkeypatch.setattr("dq.broker.later.remaining", lambda due, at, wall: (due - wall) / 2)
    assert "before its time" in found_by_some_seed()


def test_a_delayed_record_that_comes_twice_is_found(monkeypatch):
    # Given moves that begin anew at each restart of the publisher broker
    monkeypatch.setattr("dq.core.later.Later.making_of", lambda self, bucket: f"{id(self)}.{self.epoch}.{self.next}")
    assert found_by_some_seed(80)


def test_a_key_that_is_forgotten_is_found(monkeypatch):
    monkeypatch.setattr(OnceKeys, "find", lambda *_: None)
    assert "are stored" in found_by_some_seed()


def test_a_world_begins_with_all_its_streams_and_sinks():
    world = World(3)
    world.begin()
    service = world.manager.publisher_broker.service
    assert set(service._catalog.streams) >= set(world.streams)
    assert set(world.manager.consumer_broker.service._sinks.runs) == set(world.sinks)

"""Watchers that speak, never read, or are too many: what is watched goes on as if they were not there."""

from __future__ import annotations

import os

import pytest
from raw_client import RawClient, envelope, memory_bytes, new_id, write

from dq.client.watcher import PROCESSES, Watcher
from dq.config import LIMITS, MIB
from dq.errors import BrokerError
from stage import pids, until

pytestmark = pytest.mark.usefixtures("others_unharmed")


@pytest.mark.parametrize("process", PROCESSES)
def test_a_watcher_that_speaks_is_cut_off(broker, process):
    for said in (envelope("STATUS", "CLIENT", request=1), b"\0\0\0\1x", b"\xff\xff\xff\xff"):
        with RawClient.watcher(broker.root, process) as watcher:
            watcher.send(said)
            answers = [heard for heard in watcher.hear_end() if heard["type"] != "SEEN"]
            assert [(answer["type"], answer["error"]) for answer in answers] == [("NACK", "ProtocolError")]


def test_a_process_that_there_is_not_is_refused(broker):
    with RawClient(broker.root) as client:
        client.send(envelope("REGISTER", "WATCHER", id=new_id(), pid=1, process="kernel"))
        [answer] = client.hear_end()
        assert answer["error"] == "InvalidSetting"
        assert "publisher_broker" in answer["message"]


def test_watchers_are_no_clients_and_not_too_many(broker):
    before = broker.stats()
    watchers = [Watcher(broker.root) for _ in range(LIMITS.watchers_max)]
    with pytest.raises(BrokerError, match="watch this process already"):
        Watcher(broker.root)
    now = broker.stats()
    assert (now["clients"], now["registered"]) == (before["clients"], before["registered"])
    for watcher in watchers:
        watcher.close()
    until(lambda: Watcher(broker.root).close() is None)


def test_a_watcher_that_never_reads_misses_what_passes_and_slows_nobody(broker, name, neighbours):
    """It is told by numbers how much it missed; what waits for it is bounded by a turn, not by its patience."""
    process = pids(broker)[0]
    gap = write(2**63)  # a sequence that cannot follow: refused without a look at the disk
    with RawClient.watcher(broker.root, "publisher_broker") as idle, RawClient.publisher(broker.root, name) as busy:
        before = memory_bytes(process)
        busy.send(write(0))
        for _ in range(8):
            busy.send(gap * 1_000)
            assert [busy.hear()["type"] for _ in range(1_000)]
        assert neighbours.round_trip() < 1
        assert memory_bytes(process) - before < 32 * MIB
        numbers = [idle.hear()["number"]]
        while len(numbers) < 2 or numbers[-1] == numbers[-2] + 1:  # what it had before it, until the gap
            busy.send(gap)
            busy.hear()
            numbers.append(idle.hear()["number"])
        assert numbers == sorted(numbers)
        assert len(numbers) < 16_000 < numbers[-1] - numbers[0]


def test_what_others_call_themselves_cannot_reach_a_terminal(broker):
    evil = "\x1b]0;owned\x07\n\x9b31m"
    with Watcher(broker.root) as watcher, RawClient(broker.root) as client:
        client.send(envelope("REGISTER", "PUBLISHER", id=evil, pid=os.getpid(), stream=evil, create=True))
        assert client.hear_end()[-1]["error"] == "InvalidName"
        seen = until(lambda: [each for each in watcher.take(1) if each.kind == "REGISTER"])
    assert seen[0].client == "??0;owned???31m".replace("??0", "?]0", 1)
    for each in seen:
        assert all(text.isprintable() for text in (each.client, *map(str, each.fields.values())))

"""Clients that end, or are killed, at any byte of what they say: what was whole counts, what was not is nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from bad_bytes import PLACES
from raw_client import RawClient, envelope, new_id, open_descriptors, stored, write

from dq import Publisher
from stage import Child, pids, sink_of, until

HERE = Path(__file__).parent
RAW = f"""
sys.path[:0] = [{str(HERE)!r}, {str(HERE.parent)!r}]
from pathlib import Path
from raw_client import RawClient, envelope, write
"""


def registered(broker, id: str) -> bool:
    return id in {client["id"] for client in broker.stats()["registered"]}


@pytest.mark.usefixtures("others_unharmed")
def test_a_publisher_killed_before_it_sends_leaves_nothing(broker, name):
    """Crash P1: killed with its batch made and nothing of it sent."""
    taken = new_id()
    code = (
        RAW
        + "client = RawClient.publisher(Path(sys.argv[1]), sys.argv[2], sys.argv[3])\nbatch = write(0)\nsay('ready')\nheard()\n"
    )
    with Child(code, broker.root, name, taken) as child:
        assert child.hear() == "ready"
        assert registered(broker, taken)
        child.kill()
    until(lambda: not registered(broker, taken), what="its death is noticed")
    assert stored(broker, name) == 0


@pytest.mark.usefixtures("others_unharmed")
def test_a_publisher_killed_within_a_frame_leaves_what_was_whole(broker, name):
    """Crash P2: one whole batch and a half of a second one, of 1 MB, were sent."""
    taken = new_id()
    code = RAW + (
        "client = RawClient.publisher(Path(sys.argv[1]), sys.argv[2], sys.argv[3])\n"
        'half = write(1, b\'{"at":1,"payload":1}\\n\' * 9_000, count=9_000)\n'
        "client.send(write(0) + half[:-1_000])\n"
        "say(client.hear()['type'])\nheard()\n"
    )
    with Child(code, broker.root, name, taken) as child:
        assert child.hear() == "ACK"
        child.kill()
    until(lambda: not registered(broker, taken), what="its death is noticed")
    assert stored(broker, name) == 1
    with RawClient.publisher(broker.root, name, taken, again=True) as back:  # who comes back goes on behind it
        back.send(write(1, again=True))
        assert back.hear()["first"] == 1


@pytest.mark.usefixtures("others_unharmed")
@pytest.mark.parametrize("kept", [1, 4, 5, 30, -1], ids=["a byte", "the length", "a letter", "a half", "all but a byte"])
def test_a_consumer_killed_within_its_ack_has_not_acked(broker, name, kept):
    """Crash W4: the record is delivered again, to somebody else."""
    with Publisher(broker, name) as publisher:
        publisher.publish("only")
    code = RAW + (
        "client = RawClient.consumer(Path(sys.argv[1]), sys.argv[2], sys.argv[2])\n"
        "client.say('READ', 'CONSUMER', credit=1)\n"
        "lease = client.hear()['lease']\n"
        "client.send(envelope('ACK', 'CONSUMER', number=1, ranges=[[lease, 0, 1]])[: int(sys.argv[3])])\n"
        "say('sent')\nheard()\n"
    )
    with Child(code, broker.root, name, kept) as child:
        assert child.hear() == "sent"
        child.kill()
    with RawClient.consumer(broker.root, name, name) as other:
        other.say("READ", "CONSUMER", credit=1)
        again = other.hear()
        assert (again["first"], again["attempts"]) == (0, {"0": 1})
        other.say("ACK", "CONSUMER", number=1, ranges=[[again["lease"], 0, 1]], now=True)
        assert other.hear()["number"] == 1
    figures = sink_of(broker, name)
    assert (figures["settled"], figures["lost"], figures["late_acks"]) == (1, 1, 0)


# What is said at each place, to be cut at every byte: all that a client of dq ever says.
SPOKEN = {
    "a stranger": [
        envelope("REGISTER", "CLIENT", id="x-9", pid=1),
        envelope("REGISTER", "PUBLISHER", id="x-9", pid=1, stream="cut", create=True),
        envelope("REGISTER", "CONSUMER", id="x-9", pid=1, sink="cut", streams=["cut"], create=True),
        envelope("REGISTER", "LISTENER", id="x-9", pid=1, channels=["cut"]),
        envelope("REGISTER", "WATCHER", id="x-9", pid=1, process="manager"),
    ],
    "a client": [
        envelope("STATUS", "CLIENT", request=1),
        envelope("OPEN", "CLIENT", request=1, stream="cut", create=True, settings={}),
        envelope("SHUTDOWN", "CLIENT", request=1),
    ],
    "a publisher": [write(0), envelope("CLOSE", "PUBLISHER")],
    "a consumer": [
        envelope("READ", "CONSUMER", credit=1),
        envelope("ACK", "CONSUMER", number=1, ranges=[[0, 0, 1]], now=True),
        envelope("NACK", "CONSUMER", number=1, outcome="retry", ranges=[[0, 0, 1]]),
        envelope("EXTEND", "CONSUMER", leases=[0]),
        envelope("CLOSE", "CONSUMER"),
    ],
    "a reader": [
        envelope("REGISTER", "READER", id="x-9", pid=1, streams=["cut"], request=1),
        envelope("READ", "READER", credit=1, number=1),
        envelope("CLOSE", "READER"),
    ],
    "a listener": [
        envelope("WRITE", "LISTENER", b'{"at":1,"payload":1}\n', number=1, channel="cut", mode="all"),
        envelope("ACK", "LISTENER", number=1),
        envelope("CLOSE", "LISTENER"),
    ],
}


@pytest.mark.usefixtures("others_unharmed")
@pytest.mark.parametrize("place", PLACES)
def test_who_leaves_at_any_byte_of_any_event_leaves_nothing_behind(broker, name, place):
    """Bad input 46: no record, no lease, no entry in a list, no descriptor in any process."""
    processes = (broker.manager_pid, *pids(broker))
    broker.stream(name)
    before = [open_descriptors(pid) for pid in processes]
    for whole in SPOKEN[place]:
        for cut in range(1, len(whole)):
            with PLACES[place](broker.root, name) as client:
                client.send(whole[:cut])
    until(
        lambda: all(open_descriptors(pid) <= count + 1 for pid, count in zip(processes, before, strict=True)),  # a log is open
        what="all descriptors are closed",
    )
    stats = broker.stats()
    assert stored(broker, name) == 0
    assert "cut" not in stats["publisher_broker"]["streams"]
    until(
        lambda: (
            not any(client["pid"] in (1, os.getpid()) and client["serves"] == name for client in broker.stats()["registered"])
        )
    )
    consumers = broker.stats()["consumer_broker"]["sinks"].get(name, {}).get("consumers", {})
    assert consumers == {}

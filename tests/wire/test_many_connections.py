"""More clients than anybody has: they are served up to the limit, refused in words beyond it, and leave nothing behind."""

from __future__ import annotations

import resource
import statistics
import time
from pathlib import Path

import pytest
from raw_client import Neighbours, RawClient, envelope, new_id, open_descriptors, processor_seconds

from dq import BrokerError, BrokerManager, Consumer, Publisher
from dq.broker.desk import Desk
from dq.config import LIMITS
from dq.model.event import EventOwner
from stage import Child, announce, pids, until

HERE = Path(__file__).parent
# Connections that one process opens.
CROWD = 2_500
# A child that opens as many connections as it is told, and says how many of them were let in, and what the others heard.
CODE = f"""
sys.path[:0] = [{str(HERE)!r}, {str(HERE.parent)!r}]
import resource
from pathlib import Path
from raw_client import RawClient, envelope, new_id
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
root, kind = Path(sys.argv[1]), sys.argv[3]
clients, refused = [], []
for n in range(int(sys.argv[2])):
    client = RawClient(root)
    fields = {{"stream": "crowd"}} if kind == "PUBLISHER" else {{"sink": "crowd", "streams": ["crowd"]}}
    client.send(envelope("REGISTER", kind, id=new_id(), pid=os.getpid(), create=True, **fields))
    answer = client.hear(30)
    if answer["type"] == "ACK":
        clients.append(client)
    else:
        refused.append([answer["error"], answer["message"], client.hear_end()])
say(len(clients), refused)
heard()
"""


def descriptors(processes: tuple[int, ...]) -> list[int]:
    return [open_descriptors(pid) for pid in processes]


def soft_limit(pid: int) -> int:
    return resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]


def test_a_manager_started_with_few_descriptors_takes_as_many_as_it_may(tmp_path):
    """Bad input 44: manager and brokers raise their own limit, as far as the system lets them."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = LIMITS.clients_max + LIMITS.open_files_max
    code = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
from dq import BrokerManager
with BrokerManager(sys.argv[1]) as broker:
    stats = broker.stats()
    say([stats["pid"], stats["publisher_broker"]["pid"], stats["consumer_broker"]["pid"]])
    heard()
"""
    with Child(code, tmp_path / "q") as child:
        limits = [soft_limit(pid) for pid in child.hear()]
        expected = hard if hard != resource.RLIM_INFINITY and hard < wanted else wanted
        assert min(limits) >= min(expected, wanted)
        assert max(limits) <= max(wanted + 1_024, 256)
        child.tell("stop")
        assert child.wait() == 0


@pytest.mark.alone
def test_a_crowd_is_served_and_the_neighbours_go_on(dq_broker, request, capsys):
    """Bad input 44: `--connections` publishers (10,000) and a fifth as many consumers at once; all of them leave at once."""
    neighbours = Neighbours(dq_broker)
    processes = (dq_broker.manager_pid, *pids(dq_broker))
    publishers = min(request.config.getoption("--connections"), min(map(soft_limit, processes)) - LIMITS.open_files_max)
    assert publishers > CROWD, "a process may have too few descriptors here: raise ulimit -Hn"
    consumers = publishers // 5
    before = descriptors(processes)
    began = time.monotonic()
    trips: list[float] = []
    sizes = [("PUBLISHER", min(CROWD, publishers - first)) for first in range(0, publishers, CROWD)]
    crowds = [Child(CODE, dq_broker.root, size, kind) for kind, size in [*sizes, ("CONSUMER", consumers)]]
    try:
        until(lambda: trips.append(neighbours.round_trip()) or descriptors(processes) > before, what="the first ones are in")
        heard = []
        for crowd in crowds:
            while crowd._lines.empty() and crowd.process.poll() is None:
                trips.append(neighbours.round_trip())
            heard.append(crowd.hear(90))
        took = time.monotonic() - began
        let_in, refused = sum(count for count, _ in heard), [words for _, crowd in heard for words in crowd]
        assert let_in == min(publishers, LIMITS.clients_max - 1) + consumers  # the neighbour is a publisher, too
        assert len(refused) == publishers + consumers - let_in
        assert [error for error, _, _ in refused] == ["BrokerError"] * len(refused)
        assert all(str(LIMITS.clients_max) in message and rest == [] for _, message, rest in refused)
        assert len(dq_broker.stats()["registered"]) == let_in + 2
        full = [neighbours.round_trip() for _ in range(200)]
    finally:
        began = time.monotonic()
        for crowd in crowds:
            crowd.close()
    until(lambda: len(dq_broker.stats()["registered"]) == 2, 30, "all of them are forgotten")
    left = time.monotonic() - began
    until(lambda: all(now <= then + 2 for now, then in zip(descriptors(processes), before, strict=True)), what="all are closed")
    slowest, middle = statistics.quantiles(trips, n=100)[98], statistics.median(full)
    announce(
        capsys,
        f" {let_in} let in and {len(refused)} refused in {took:.1f} s, gone in {left:.1f} s; round trip beside it "
        f"p99 {slowest * 1e3:.1f} ms, then {middle * 1e3:.1f} ms ",
    )
    assert slowest < 1.0
    assert neighbours.processes() == neighbours.before
    neighbours.close()


class Told:
    """In place of a broker's life: keeps what the manager is told."""

    poller = None

    def __init__(self) -> None:
        self.told: list = []

    def tell(self, event) -> None:
        self.told.append(event)


def test_beyond_the_limit_a_client_is_refused_in_words():
    """Bad input 44: at one below the limit there is room, at the limit there is none."""
    desk: Desk = Desk(Told(), EventOwner.PUBLISHER_BROKER, lambda *_: None, lambda *_: None)
    desk.clients = dict.fromkeys(map(str, range(LIMITS.clients_max - 1)))
    desk.check_room()
    desk.clients["one more"] = None
    with pytest.raises(BrokerError, match="10000 clients already: close some"):
        desk.check_room()


def test_without_descriptors_the_door_rests_and_who_is_in_goes_on(tmp_path):
    """Bad input 44: EMFILE in the manager. Its loop must not spin, and who waits is let in as soon as somebody left."""
    with BrokerManager(tmp_path / "q") as broker:
        neighbours = Neighbours(broker)
        manager = broker.manager_pid
        soft, hard = resource.prlimit(manager, resource.RLIMIT_NOFILE)
        resource.prlimit(manager, resource.RLIMIT_NOFILE, (open_descriptors(manager) + 20, hard))
        crowd = [RawClient(broker.root) for _ in range(100)]
        try:
            used, began = processor_seconds(manager), time.monotonic()
            while time.monotonic() - began < 1.5:
                neighbours.round_trip()
            assert processor_seconds(manager) - used < 0.5
            for client in crowd[:90]:
                client.close()
            hello = envelope("REGISTER", "CLIENT", id=new_id(), pid=1)
            crowd[-1].send(hello)
            assert crowd[-1].hear()["type"] == "ACK"
        finally:
            for client in crowd:
                client.close()
            resource.prlimit(manager, resource.RLIMIT_NOFILE, (soft, hard))
        with Publisher(broker, "after") as publisher:
            assert publisher.publish(1).id == "after/0/0"
        assert neighbours.processes() == neighbours.before
        neighbours.close()


def test_without_descriptors_in_a_broker_its_clients_go_on(tmp_path):
    """Bad input 44: who cannot be taken over sees the end, comes again, and is served as soon as there is room."""
    with BrokerManager(tmp_path / "q") as broker:
        neighbours = Neighbours(broker)
        process = pids(broker)[0]
        soft, hard = resource.prlimit(process, resource.RLIMIT_NOFILE)
        resource.prlimit(process, resource.RLIMIT_NOFILE, (open_descriptors(process) + 10, hard))
        crowd = []
        try:
            for _ in range(30):
                client = RawClient(broker.root)
                client.send(envelope("REGISTER", "PUBLISHER", id=new_id(), pid=1, stream="neighbours"))
                crowd.append(client)
            heard = [client._next(time.monotonic() + 10) for client in crowd]
            assert heard.count(None) >= 15
            assert sum(answer is not None and answer["type"] == "ACK" for answer in heard) >= 5
            served = next(client for client, answer in zip(crowd, heard, strict=True) if answer is not None)
            used = processor_seconds(process)
            assert served.hear_nothing(0.5)
            assert processor_seconds(process) - used < 0.2
            neighbours.round_trip()
        finally:
            for client in crowd:
                client.close()
            resource.prlimit(process, resource.RLIMIT_NOFILE, (soft, hard))
        with Publisher(broker, "neighbours") as publisher:
            assert publisher.publish("on").id.startswith("neighbours/0/")
        assert neighbours.processes() == neighbours.before
        neighbours.close()


def test_a_consumer_of_a_thousand_streams_is_served(dq_broker):
    """Bad input 44: what it is handed over with is far longer than what a descriptor travels with; nobody waits behind it."""
    names = [f"one-of-a-thousand-streams-with-long-names-{n}" for n in range(1_000)]
    with Consumer(dq_broker, *names, sink="all", idle_timeout=5) as consumer, Publisher(dq_broker, names[-1]) as publisher:
        receipt = publisher.publish("found")
        task = next(iter(consumer))
        assert (task.id, task.payload) == (receipt.id, "found")
        task.ack(wait=True)
    assert len(dq_broker.stats()["publisher_broker"]["streams"]) == 1_000

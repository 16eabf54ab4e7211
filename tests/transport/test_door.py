"""Bad input at the door of a live broker and on connections it serves: it costs that connection alone."""

from __future__ import annotations

import os
import pickle
import random
import socket
import struct

import orjson
import pytest

from dq import Consumer, Publisher
from dq.model.event import Event, EventOwner, EventType, decode
from dq.transport.door import knock
from dq.transport.frames import LENGTH
from dq.transport.peer import Peer
from stage import Child, drain, pids, settled, until


class Explosive:
    """Pickled, it would make a file wherever it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def frame(content: bytes) -> bytes:
    return LENGTH.pack(len(content)) + content


def hello(**changes) -> bytes:
    fields = {"type": "REGISTER", "owner": "PUBLISHER", "id": "p-x", "pid": 1, "stream": "bad", "create": True}
    return orjson.dumps({**fields, **changes}) + b"\n"


def write(**changes) -> bytes:
    fields = {"bucket": 0, "sequence": 0, "count": 1, **changes}
    return Event(EventType.WRITE, EventOwner.PUBLISHER, fields, b'{"at":1,"payload":1}\n').encode()


BAD = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "TLS hello": bytes.fromhex("16030100c8010000c40303") + bytes(180),
    "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
    "pickle": pickle.dumps({"a": 1}),
    "a frame of pickle": frame(pickle.dumps({"a": 1})),
    "NULs": bytes(64),
    "a length over the limit": struct.pack("!I", 16 * 1024 * 1024 + 1),
    "the greatest length": struct.pack("!I", 2**32 - 1),
    "an empty frame": struct.pack("!I", 0),
    "no line end": frame(b'{"type":"REGISTER","owner":"CLIENT","id":"x","pid":1}'),
    "no JSON": frame(b"hello\n"),
    "invalid UTF-8": frame(b'{"type":"\xff"}\n'),
    "overlong UTF-8": frame(b'{"type":"\xc0\xaf"}\n'),
    "a surrogate as UTF-8": frame(b'{"type":"\xed\xa0\x80"}\n'),
    "UTF-16": frame('{"type":"REGISTER"}\n'.encode("utf-16")),
    "UTF-32": frame('{"type":"REGISTER"}\n'.encode("utf-32")),
    "a BOM": frame(b"\xef\xbb\xbf" + hello()),
    "NaN": frame(b'{"type":"REGISTER","owner":"CLIENT","id":"x","pid":NaN}\n'),
    "1e999": frame(b'{"type":"REGISTER","owner":"CLIENT","id":"x","pid":1e999}\n'),
    "a list": frame(b"[]\n"),
    "deep": frame(b"[" * 100_000 + b"\n"),
    "a negative pid": frame(hello(pid=-1)),
    "true as a pid": frame(hello(pid=True)),
    "no id": frame(hello(id=None)),
    "an unknown field": frame(hello(colour="red")),
    "an unknown type": frame(hello(type="HELLO")),
    "not the first word of a client": frame(Event(EventType.SHUTDOWN, EventOwner.CLIENT, {"request": 1}).encode()),
    "the word of a broker": frame(Event(EventType.REGISTER, EventOwner.MANAGER).encode()),
    "a name that is none": frame(hello(stream="../../etc")),
}


@pytest.fixture(scope="module")
def neighbour(broker):
    with Publisher(broker, "neighbour") as publisher:
        yield publisher


@pytest.fixture
def unharmed(broker, neighbour):
    """After the test: the same processes serve, and a connection that was there before goes on."""
    before = (broker.manager_pid, *pids(broker))
    yield
    assert neighbour.publish("on").id.startswith("neighbour/0/")
    assert (broker.stats()["pid"], *pids(broker)) == before
    assert broker.stats()["publisher_broker"]["restarts"] == 0


def is_closed(sock: socket.socket) -> bool:
    """Reads until the broker closes; fails after the time in which it closes who stays silent."""
    sock.settimeout(8)
    try:
        while sock.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return True


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_what_is_no_hello_costs_its_own_connection(broker, bad):
    """Rows 26, 28, 30-33, 39, 40."""
    with knock(broker.root) as sock:
        sock.sendall(bad)
        if bad == BAD["TLS hello"] or bad == BAD["pickle"]:
            sock.shutdown(socket.SHUT_WR)  # its first bytes may be a length, whose frame then never comes
        assert is_closed(sock)


@pytest.mark.usefixtures("unharmed")
def test_random_bytes_cost_their_own_connection(broker):
    """Row 28."""
    rng = random.Random(7)
    for _ in range(100):
        with knock(broker.root) as sock:
            sock.sendall(rng.randbytes(rng.randrange(1, 400)))
            sock.shutdown(socket.SHUT_WR)
            assert is_closed(sock)


@pytest.mark.usefixtures("unharmed")
def test_pickle_is_never_loaded(broker, tmp_path):
    """Row 28: neither at the door nor where a publisher is served."""
    made = tmp_path / "made"
    bomb = frame(pickle.dumps(Explosive(str(made))))
    for before in (b"", frame(hello())):
        with knock(broker.root) as sock:
            sock.sendall(before + bomb)
            assert is_closed(sock)
    peer = registered(broker, EventOwner.PUBLISHER, stream="bad", create=True)
    peer._sock.sendall(bomb)
    assert is_closed(peer._sock)
    peer.close()
    assert not made.exists()


@pytest.mark.usefixtures("unharmed")
def test_who_says_more_than_its_hello_before_it_is_answered_is_refused(broker, name):
    """What came with the hello would be lost on its way from the manager to the broker."""
    for more in (frame(write()), frame(write())[:9], b"\0"):
        with knock(broker.root) as sock:
            sock.sendall(frame(hello(stream=name)) + more)
            assert b"waits for the answer" in sock.recv(65536)
            assert is_closed(sock)


def test_what_is_wrong_with_a_hello_is_told(broker):
    peer = Peer(broker.root)
    try:
        peer.send_parts(hello(colour="red"))
        answer = decode(peer.receive(5))
        assert (answer.type, answer["error"]) == (EventType.NACK, "ProtocolError")
        assert "colour" in answer["message"]
    finally:
        peer.close()


# --- connections that are served -------------------------------------------------------------------------------------


def registered(broker, owner: EventOwner, **fields) -> Peer:
    peer = Peer(broker.root)
    answer = peer.ask(Event(EventType.REGISTER, owner, {"id": f"x-{os.urandom(4).hex()}", "pid": os.getpid(), **fields}), 5)
    assert answer.type is EventType.ACK, answer
    return peer


RAW = {name: content for name, content in BAD.items() if content[:4] != LENGTH.pack(len(content) - 4)}
BAD_FROM_A_PUBLISHER = {
    **RAW,
    "no such bucket": frame(write(bucket=7)),
    "count says more": frame(write(count=2)),
    "count says none": frame(write(count=0)),
    "a word of a consumer": frame(Event(EventType.READ, EventOwner.CONSUMER, {"credit": 1}).encode()),
    "a float as sequence": frame(b'{"type":"WRITE","owner":"PUBLISHER","bucket":0,"sequence":0.0,"count":1}\n'),
    "a lie about the length": struct.pack("!I", 100) + write() * 3,
}


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("bad", BAD_FROM_A_PUBLISHER.values(), ids=BAD_FROM_A_PUBLISHER.keys())
def test_bad_input_from_a_publisher_costs_its_own_connection(broker, name, bad):
    peer = registered(broker, EventOwner.PUBLISHER, stream=name, create=True)
    try:
        peer._sock.sendall(bad)
        if bad in (BAD["TLS hello"], BAD["pickle"]):
            peer._sock.shutdown(socket.SHUT_WR)
        assert is_closed(peer._sock)
    finally:
        peer.close()
    with Publisher(broker, name) as publisher:
        assert publisher.publish(1).id == f"{name}/0/0"  # nothing of it was stored


BAD_BODIES = {
    "no line end": b'{"at":1,"payload":1}',
    "two lines for one": b'{"at":1}\n{"at":2}\n',
    "empty": b"",
    "a batch header": b'{"batch":1}\n',
}


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_a_batch_that_is_not_as_it_says_is_not_stored(broker, name, body):
    """Row 38: the log is never made unreadable."""
    peer = registered(broker, EventOwner.PUBLISHER, stream=name, create=True)
    try:
        peer.send_parts(Event(EventType.WRITE, EventOwner.PUBLISHER, {"bucket": 0, "sequence": 0, "count": 1}).line(), body)
        answer = peer.receive(5)
        assert answer is None or decode(answer).type is EventType.NACK
    finally:
        peer.close()
    with Publisher(broker, name) as publisher:
        assert publisher.publish(1).id == f"{name}/0/0"


def test_a_line_that_is_no_json_is_dead_lettered_alone(broker, name):
    peer = registered(broker, EventOwner.PUBLISHER, stream=name, create=True)
    try:
        lines = b'{"at":1,"payload":"a"}\n{"at":1,\n{"at":1,"payload":"c"}\n[]\n\n'
        fields = {"bucket": 0, "sequence": 0, "count": 5}
        peer.send_parts(Event(EventType.WRITE, EventOwner.PUBLISHER, fields).line(), lines)
        assert decode(peer.receive(5)).type is EventType.ACK
    finally:
        peer.close()
    assert [task.payload for task in drain(broker, name, sink=name)] == ["a", "c"]
    until(lambda: settled(broker, name, 5), what="the dead letters are stored")
    assert [task.payload for task in drain(broker, f"{name}-dlq", sink=f"{name}-dlq")] == [b'{"at":1,', b"[]", b""]


BAD_FROM_A_CONSUMER = {
    **RAW,
    "a range that is none": frame(b'{"type":"ACK","owner":"CONSUMER","number":1,"ranges":[[0,5,5]]}\n'),
    "a range with a text in it": frame(b'{"type":"ACK","owner":"CONSUMER","number":1,"ranges":[[0,"1",5]]}\n'),
    "a range with a truth in it": frame(b'{"type":"ACK","owner":"CONSUMER","number":1,"ranges":[[0,true,5]]}\n'),
    "a range of two": frame(b'{"type":"ACK","owner":"CONSUMER","number":1,"ranges":[[0,1]]}\n'),
    "a range that is no list": frame(b'{"type":"ACK","owner":"CONSUMER","number":1,"ranges":[1]}\n'),
    "a huge range": frame(b'{"type":"ACK","owner":"CONSUMER","number":1,"ranges":[[0,0,9000000000000000000]]}\n'),
    "an outcome that is none": frame(b'{"type":"NACK","owner":"CONSUMER","number":1,"outcome":"eat","ranges":[[0,0,1]]}\n'),
    "an ack among the nacks": frame(b'{"type":"NACK","owner":"CONSUMER","number":1,"outcome":"ack","ranges":[[0,0,1]]}\n'),
    "abandoned by half": frame(b'{"type":"EXTEND","owner":"CONSUMER","abandoned":[[1]]}\n'),
    "leases with a text": frame(b'{"type":"EXTEND","owner":"CONSUMER","leases":["1"]}\n'),
    "the word of a publisher": frame(write()),
}


@pytest.mark.usefixtures("unharmed")
@pytest.mark.parametrize("bad", BAD_FROM_A_CONSUMER.values(), ids=BAD_FROM_A_CONSUMER.keys())
def test_bad_input_from_a_consumer_costs_its_own_connection(broker, name, bad):
    peer = registered(broker, EventOwner.CONSUMER, sink=name, streams=[name], create=True)
    try:
        peer._sock.sendall(bad)
        if bad in (BAD["TLS hello"], BAD["pickle"]):
            peer._sock.shutdown(socket.SHUT_WR)
        assert is_closed(peer._sock)
    finally:
        peer.close()


STRANGE_WORDS = [
    {"type": "ACK", "number": 1, "ranges": [[999, 0, 1]]},
    {"type": "ACK", "number": 2, "ranges": []},
    {"type": "NACK", "number": 3, "outcome": "release", "ranges": [[999, 0, 5]]},
    {"type": "NACK", "number": 4, "outcome": "retry", "ranges": [[999, 0, 1]], "after": 1e300},
    {"type": "NACK", "number": 5, "outcome": "dead_letter", "ranges": [[999, 0, 1]], "reason": "x" * 100_000},
]


@pytest.mark.usefixtures("unharmed")
def test_words_about_records_that_a_consumer_does_not_have_change_nothing(broker, name):
    """Row 41: acks of unknown leases and of another's."""
    with Publisher(broker, name) as publisher, Consumer(broker, name, sink=name, idle_timeout=3) as consumer:
        publisher.publish("x")
        task = next(iter(consumer))
        liar = registered(broker, EventOwner.CONSUMER, sink=name, streams=[name], create=True)
        try:
            for word in STRANGE_WORDS:
                liar.send_parts(orjson.dumps({"owner": "CONSUMER", **word}) + b"\n")
                assert decode(liar.receive(5))["number"] == word["number"]
            for strange in ({"type": "EXTEND", "leases": [7, 8]}, {"type": "EXTEND", "lease": 3, "offset": 0, "seconds": 5}):
                liar.send_parts(orjson.dumps({"owner": "CONSUMER", **strange}) + b"\n")
            assert not settled(broker, name, 1)
        finally:
            liar.close()
        task.ack(wait=True)
        assert settled(broker, name, 1)


@pytest.mark.usefixtures("unharmed")
def test_a_publisher_that_dies_within_a_frame_leaves_nothing(broker, name):
    """Row 46: cut at every byte of a WRITE."""
    whole = frame(write())
    for cut in range(1, len(whole)):
        peer = registered(broker, EventOwner.PUBLISHER, stream=name, create=True)
        peer._sock.sendall(whole[:cut])
        peer.close()
    until(lambda: not _of_stream(broker, name), what="all of them are gone")
    with Publisher(broker, name) as publisher:
        assert publisher.publish(1).id == f"{name}/0/0"


def _of_stream(broker, stream: str) -> list:
    publishers = broker.stats()["publisher_broker"]["publishers"].values()
    return [publisher for publisher in publishers if publisher["stream"] == stream]


def test_clients_that_come_and_go_leave_no_descriptor_behind(broker, name):
    """Row 46: descriptors of all three processes are as many as before."""

    def opened() -> list[int]:
        return [len(os.listdir(f"/proc/{pid}/fd")) for pid in (broker.manager_pid, *pids(broker))]

    def come_and_go(count: int) -> None:
        for _ in range(count):
            with Publisher(broker, name) as publisher, Consumer(broker, name, sink=name):
                publisher.publish(1)

    come_and_go(3)
    before = opened()
    come_and_go(30)
    assert until(lambda: all(now <= then + 1 for now, then in zip(opened(), before, strict=True)), what="all are closed")


@pytest.mark.usefixtures("unharmed")
def test_a_stopped_consumer_costs_nobody_else_anything(broker, name):
    """Row 45 and P6: SIGSTOP while it has much in hand; another consumer of another sink goes on."""
    code = """
from dq import Consumer
for task in Consumer(sys.argv[1], sys.argv[2], sink="stopped", prefetch=50_000):
    with task:
        if task.offset == 0:
            say("has begun")
            heard()
"""
    with Publisher(broker, name) as publisher, Child(code, broker.root, name) as child:
        publisher.publish_many("x" * 500 for _ in range(50_000))
        assert child.hear() == "has begun"
        child.process.send_signal(19)
        with Consumer(broker, name, sink=name, idle_timeout=1) as consumer:
            assert sum(1 for task in consumer if task.ack() is None) == 50_000

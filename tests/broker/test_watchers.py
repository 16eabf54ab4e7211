"""Taps: on a pipe only while somebody watches; and what they make of the frames that pass."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from dq.broker.watchers import Watchers
from dq.model.event import Event, EventOwner, EventType, decode
from dq.transport.frames import Inbox, framed
from dq.transport.pipe import Pipe
from dq.transport.poller import Poller


class Rig:
    """The watchers of one process, a pipe of a client, and who watches."""

    def __init__(self) -> None:
        self.poller = Poller()
        self.watchers = Watchers(self.poller, EventOwner.PUBLISHER_BROKER)
        self._sockets: list[socket.socket] = []
        ours, self.client = self.pair()
        self.pipe = Pipe(ours, self.poller.scratch)
        self.watchers.know(self.pipe, lambda: {"peer": EventOwner.PUBLISHER, "client": "p"})

    def pair(self) -> tuple[socket.socket, socket.socket]:
        both = socket.socketpair()
        self._sockets += both
        return both

    def watch(self) -> socket.socket:
        ours, theirs = self.pair()
        theirs.setblocking(False)
        self.watchers.admit(ours)
        return theirs

    def told(self, watcher: socket.socket) -> list[Event]:
        """What a watcher was told since, besides its ACK."""
        self.watchers.flush()
        try:
            content = watcher.recv(1 << 20)
        except BlockingIOError:
            return []
        events = [decode(frame) for frame in Inbox().feed(memoryview(content))]
        return [event for event in events if event.type is EventType.SEEN]

    def close(self) -> None:
        self.poller.close()
        self.pipe.close()
        for each in self._sockets:
            each.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    here = Rig()
    yield here
    here.close()


def test_a_pipe_has_a_tap_only_while_somebody_watches(rig):
    """What nobody watches costs one look at an attribute for each frame."""
    assert rig.pipe.tap is None
    first, second = rig.watch(), rig.watch()
    assert rig.pipe.tap is not None
    for watcher in (first, second):
        assert rig.watchers.on
        watcher.close()
        rig.poller.run_once(1)
    assert rig.pipe.tap is None
    assert not rig.watchers.on


def test_a_pipe_that_is_forgotten_is_watched_no_more(rig):
    rig.watch()
    rig.watchers.forget(rig.pipe)
    rig.watchers.forget(rig.pipe)
    assert rig.pipe.tap is None


def test_each_frame_of_one_write_is_told_with_its_sizes(rig):
    watcher = rig.watch()
    answers = [Event(EventType.ACK, EventOwner.PUBLISHER_BROKER, {"sequence": n}) for n in range(3)]
    lease = Event(EventType.TASK, EventOwner.CONSUMER_BROKER, {"lease": 7}).line()
    rig.pipe.send_all(answers, [lease, b"a body ", b"in parts"])
    told = rig.told(watcher)
    assert [(event["kind"], event["body"]) for event in told] == [("ACK", 0), ("ACK", 0), ("ACK", 0), ("TASK", 15)]
    assert [event["bytes"] for event in told] == [len(answer.line()) for answer in answers] + [len(lease)]
    assert [event["number"] for event in told] == [1, 2, 3, 4]
    assert {(event["client"], event["direction"]) for event in told} == {("p", "out")}


def test_what_comes_in_is_told_and_is_still_whole_for_its_reader(rig):
    watcher = rig.watch()
    ranges = [[5, 0, 10], [6, 20, 25]]
    event = Event(EventType.ACK, EventOwner.CONSUMER, {"number": 3, "ranges": ranges})
    rig.client.sendall(b"".join(framed(event.line())))
    assert [decode(frame) for frame in rig.pipe.receive()] == [event]
    [told] = rig.told(watcher)
    assert (told["direction"], told["ranges"], told["count"], told["said"]) == ("in", 2, 15, 3)


@pytest.mark.parametrize(
    "line",
    [
        b"no json\n", b"[]\n", b"1\n", b'{"type":"PING","owner":"CLIENT"}\n', b'{"type":[],"owner":{}}\n', b"without an end",
        b'{"type":"ACK","owner":"CONSUMER","ranges":[[1],[1,2,"x"],7],"number":-1,"stream":5,"count":true}\n',
        b"[" * 5_000 + b"\n",
    ],
)  # fmt: skip
def test_nonsense_that_passes_does_no_harm(rig, line):
    watcher = rig.watch()
    rig.client.sendall(b"".join(framed(line)))
    assert len(list(rig.pipe.receive())) == 1
    assert len(rig.told(watcher)) <= 1


def test_what_watchers_say_is_told_to_none(rig):
    watcher = rig.watch()
    rig.watchers.saw("in", Event(EventType.REGISTER, EventOwner.WATCHER, {"id": "w"}), EventOwner.MANAGER)
    rig.watchers.saw("in", Event(EventType.OPEN, EventOwner.MANAGER, {"stream": "s"}), EventOwner.MANAGER)
    assert [event["kind"] for event in rig.told(watcher)] == ["OPEN"]

"""The acts of `demo --step`: what is done, which envelope is the last that it causes, and what each envelope is for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dq.client.broker import Broker
from dq.client.listener import Listener
from dq.client.publisher import Publisher
from dq.client.watcher import Seen
from dq.demo.puppet import SINK, STREAM, Puppet

_CHANNEL = "news"
Mark = tuple[str, str, str, str]  # process, direction, type, owner


class Cast:
    """Who plays: a publisher in this process, and two consumers in processes of their own, of which one will be killed.

    Args:
        broker: the broker of the stage.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker, self.root = broker, Path(broker.root)
        self.first, self.second = Puppet(self.root), Puppet(self.root)
        self._publisher: Publisher | None = None
        self._listener: Listener | None = None

    def publisher_comes(self) -> None:
        self._publisher = Publisher(self.root, STREAM)

    def publish(self, payload: object) -> None:
        if self._publisher is not None:
            self._publisher.publish(payload)

    def publish_for_the_first(self) -> None:
        self.publish({"cup": "mocha"})
        self.first.tell("take")

    def retry(self) -> None:
        self.first.tell("retry")
        self.first.tell("take")

    def second_comes(self) -> None:
        self.second.tell("join")
        self.second.tell("take")

    def broadcast(self) -> None:
        self._listener = self._broker.listen(_CHANNEL, lambda signal: None)
        self._broker.broadcast(_CHANNEL, "the kitchen closes")

    def close(self) -> None:
        """Sends everybody home."""
        with contextlib.ExitStack() as stack:
            for each in (self._listener, self._publisher, self.second, self.first):
                if each is not None:
                    stack.callback(each.close)


@dataclass(frozen=True, slots=True)
class Act:
    """One step of the story.

    Attributes:
        title: what happens.
        code: the same in Python.
        do: does it.
        last: the envelopes that have all passed once it is over.
    """

    title: str
    code: str
    do: Callable[[Cast], None]
    last: tuple[Mark, ...]


_LEASED: Mark = ("consumer_broker", "out", "TASK", "CONSUMER_BROKER")
_TOLD: Mark = ("consumer_broker", "in", "COMMITTED", "PUBLISHER_BROKER")

ACTS = (
    Act(
        "a publisher comes in",
        f'publisher = Publisher(broker, "{STREAM}")',
        Cast.publisher_comes,
        (("publisher_broker", "out", "ACK", "PUBLISHER_BROKER"),),
    ),
    Act(
        "a consumer comes in, in a process of its own",
        f'consumer = Consumer(broker, "{STREAM}", sink="{SINK}", prefetch=1)',
        lambda cast: cast.first.tell("join"),
        (_TOLD,),
    ),
    Act("a record is published", 'publisher.publish({"cup": "tea"})', lambda cast: cast.publish({"cup": "tea"}), (_TOLD,)),
    Act("the consumer asks for a task", "task = next(tasks)", lambda cast: cast.first.tell("take"), (_LEASED,)),
    Act(
        "the task is done",
        "task.ack(wait=True)",
        lambda cast: cast.first.tell("ack"),
        (("consumer_broker", "out", "ACK", "CONSUMER_BROKER"),),
    ),
    Act(
        "another record, for which the consumer waits already",
        'publisher.publish({"cup": "mocha"})',
        Cast.publish_for_the_first,
        (_LEASED,),
    ),
    Act("it fails, and is tried again", 'task.retry(after=0, error="out of milk")', Cast.retry, (_LEASED,)),
    Act(
        "the consumer is killed with the task in its hand",
        "kill -9",
        lambda cast: cast.first.kill(),
        (("manager", "in", "CLOSE", "CONSUMER_BROKER"), ("publisher_broker", "in", "READ", "CONSUMER_BROKER")),
    ),
    Act("another consumer comes in, and gets it", "task = next(tasks)", Cast.second_comes, (_LEASED,)),
    Act(
        "it can never be done: a dead letter",
        'task.dead_letter("nobody can make this")',
        lambda cast: cast.second.tell("dead-letter"),
        (("consumer_broker", "in", "ACK", "PUBLISHER_BROKER"),),
    ),
    Act(
        "something is told to whoever listens now, and stored nowhere",
        f'broker.broadcast("{_CHANNEL}", "the kitchen closes")',
        Cast.broadcast,
        (
            ("consumer_broker", "out", "WRITE", "LISTENER"),
            ("consumer_broker", "in", "ACK", "LISTENER"),
        ),
    ),
)

# (type, owner, who gets it) -> what it is for.
_MEANINGS = {
    ("REGISTER", "PUBLISHER", "manager"): "A publisher says who it is, and to which stream it writes.",
    ("REGISTER", "PUBLISHER", "publisher broker"): (
        "The manager hands its connection on: from now on the two speak directly, and no record passes the manager."
    ),
    ("REGISTER", "CONSUMER", "manager"): "A consumer says who it is, which sink it works for, and over which streams that is.",
    ("REGISTER", "CONSUMER", "consumer broker"): "The manager hands the consumer on, with what it was told of the streams.",
    ("REGISTER", "LISTENER", "manager"): "Somebody says which channels it listens to, or that it has something to tell.",
    ("REGISTER", "LISTENER", "consumer broker"): "The manager hands it on to the consumer broker, which keeps the listeners.",
    ("OPEN", "MANAGER", "publisher broker"): "Only the publisher broker makes streams: it is to find this one, or to make it.",
    ("ACK", "PUBLISHER_BROKER", "publisher"): "The stream is open, with these settings.",
    ("ACK", "PUBLISHER_BROKER", "manager"): "The stream is open, with these settings.",
    ("ACK", "PUBLISHER_BROKER", "consumer broker"): "The dead letter is on disk: its record is settled for this sink now.",
    ("ACK", "CONSUMER_BROKER", "consumer"): "The consumer is known to its sink: how it has to behave there stands in here.",
    ("ACK", "CONSUMER_BROKER", "listener"): "It is known, and hears what is told to its channels from now on.",
    ("READ", "CONSUMER_BROKER", "publisher broker"): (
        "Whether the consumer broker wants to be told of commits (1), or has nobody to serve (0) and is not to be woken."
    ),
    ("COMMITTED", "PUBLISHER_BROKER", "consumer broker"): (
        "How far the stream is on disk. It is a hint and no record: the consumer broker reads those from the file."
    ),
    ("READ", "CONSUMER", "consumer broker"): "Credit: so many more tasks may be pushed to this consumer.",
    ("WRITE", "PUBLISHER", "publisher broker"): (
        "A batch of record lines, numbered: one that comes twice is stored once. The broker does not look into it."
    ),
    ("TASK", "CONSUMER_BROKER", "consumer"): (
        "A lease, noted before it is sent: these records are this consumer's until it settles them, or dies."
    ),
    ("ACK", "CONSUMER", "consumer broker"): "Done: these are settled, and never come again.",
    ("NACK", "CONSUMER", "consumer broker"): "Not done: its outcome says what is to become of it.",
    ("CLOSE", "CONSUMER_BROKER", "manager"): (
        "The end of a consumer's pipe is its death: what it held is free at once, and the manager strikes it off its list."
    ),
    ("WRITE", "CONSUMER_BROKER", "manager"): (
        "A dead letter on its way to the only writer of streams; its intent is on disk, so it will arrive exactly once."
    ),
    ("WRITE", "CONSUMER_BROKER", "publisher broker"): "The manager passes the dead letter on.",
    ("TRIM", "CONSUMER_BROKER", "manager"): "What every sink has settled, and synced, is needed by none of them any more.",
    ("TRIM", "MANAGER", "publisher broker"): "So the publisher broker may delete whole segments below it, when they are old.",
    ("TRIM", "PUBLISHER_BROKER", "consumer broker"): "What is gone of a stream, so that nobody waits for it.",
    ("WRITE", "LISTENER", "consumer broker"): "Something to be told to whoever listens to this channel.",
    ("WRITE", "LISTENER", "listener"): "It is passed on to each listener. No log has it.",
    ("ACK", "LISTENER", "consumer broker"): "A listener has taken it.",
}
# Where one form says several things, what tells them apart, looked at first.
_SPECIAL: tuple[tuple[tuple[str, str, str], Callable[[dict[str, int | str]], bool], str], ...] = (
    (
        ("ACK", "PUBLISHER_BROKER", "publisher"),
        lambda fields: "sequence" in fields,
        "Yes, on disk: the batch is synced, and only now publish() returns.",
    ),
    (("ACK", "PUBLISHER_BROKER", "manager"), lambda fields: "sequence" in fields, "Yes: the dead letter is on disk."),
    (
        ("ACK", "CONSUMER_BROKER", "consumer"),
        lambda fields: "said" in fields,
        "What the consumer said up to this number is noted, and survives a kill of this broker.",
    ),
    (
        ("ACK", "CONSUMER_BROKER", "listener"),
        lambda fields: "said" in fields,
        "What came of the broadcast of this number: how many were told, took it, or failed.",
    ),
    (
        ("ACK", "CONSUMER", "consumer broker"),
        lambda fields: not fields.get("count"),
        "Nothing more to settle: it asks to have confirmed what it said before.",
    ),
    (
        ("READ", "CONSUMER", "consumer broker"),
        lambda fields: not fields.get("credit"),
        "No more for now: it takes back the credit that was not used.",
    ),
)


def name_of(owner: str) -> str:
    """A process or a client as people call it."""
    return owner.lower().replace("_", " ")


def way_of(seen: Seen) -> tuple[str, str]:
    """Who sent it, and who gets it."""
    process, peer = name_of(seen.process), name_of(seen.peer)
    if peer == "client":  # the manager does not tell its strangers apart before they have said who they are
        peer = name_of(seen.speaker)
    return (peer, process) if seen.direction == "in" else (process, peer)


def meaning_of(seen: Seen) -> str:
    """What it is for, in a sentence."""
    way = (seen.kind, seen.speaker, way_of(seen)[1])
    for special, told_by, meaning in _SPECIAL:
        if special == way and told_by(seen.fields):
            return meaning
    return _MEANINGS.get(way, "")

"""What a consumer says of records that are not in its hand changes nothing for those in whose hand they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from raw_client import RawClient, new_id

from dq import Publisher
from stage import sink_of, until

HELD = 10


def figures_of(broker, name: str) -> dict[str, Any]:
    """The figures of a sink and of its one bucket."""
    sink = sink_of(broker, name)
    return {**sink, **sink["shards"][f"{name}/0"]}


class Pair:
    """Two consumers of one sink, `owner` with all of its records in hand, in one lease, and `liar` with nothing."""

    def __init__(self, broker, name: str, **settings: Any) -> None:
        self.broker, self.name, self.number = broker, name, 0
        with Publisher(broker, name) as publisher:
            publisher.publish_many(range(HELD))
        self.owner = RawClient.consumer(broker.root, name, name, settings=settings)
        self.owner.say("READ", "CONSUMER", credit=HELD)
        task = self.owner.hear()
        assert (task["type"], task["first"], task["count"]) == ("TASK", 0, HELD)
        self.lease = task["lease"]
        self.liar = RawClient.consumer(broker.root, name, name)

    def confirmed(self, client: RawClient, kind: str, **fields: Any) -> None:
        """Says something, and waits until the broker has confirmed it; records that come meanwhile are an error."""
        self.number += 1
        client.say(kind, "CONSUMER", number=self.number, **fields)
        client.say("ACK", "CONSUMER", number=self.number, ranges=[], now=True)
        answer = client.hear()
        assert (answer["type"], answer["number"]) == ("ACK", self.number), answer

    def figures(self) -> dict[str, Any]:
        return figures_of(self.broker, self.name)

    def close(self) -> None:
        self.owner.close()
        self.liar.close()


@pytest.fixture
def pair(broker, name) -> Iterator[Pair]:
    both = Pair(broker, name)
    yield both
    both.close()


def strange_words(lease: int) -> dict[str, tuple[str, dict[str, Any]]]:
    """Whatever can be said of a lease."""
    words: dict[str, tuple[str, dict[str, Any]]] = {"an ack": ("ACK", {"ranges": [[lease, 0, HELD]]})}
    for outcome in ("release", "drop", "retry", "dead_letter"):
        words[f"a {outcome}"] = ("NACK", {"outcome": outcome, "ranges": [[lease, 0, HELD]], "reason": "x", "after": 0.0})
    return words


@pytest.mark.usefixtures("others_unharmed")
@pytest.mark.parametrize("lease", ["another's", "unknown", "the greatest"])
def test_what_is_said_of_a_lease_that_one_does_not_have_changes_nothing(pair, lease):
    """Bad input 41: ack, release, drop, retry, dead letter, sign of life, more time, abandoned."""
    number = {"another's": pair.lease, "unknown": pair.lease + 1_000, "the greatest": 2**63}[lease]
    for kind, fields in strange_words(number).values():
        pair.confirmed(pair.liar, kind, **fields)
    pair.liar.say("EXTEND", "CONSUMER", leases=[number])
    pair.liar.say("EXTEND", "CONSUMER", lease=number, offset=3, seconds=0.0)
    pair.liar.say("EXTEND", "CONSUMER", abandoned=[[number, 3]])
    pair.confirmed(pair.liar, "READ", credit=1)
    figures = pair.figures()
    assert (figures["settled"], figures["in_hand"]) == (0, HELD)
    # It is still the owner's, who settles all of it.
    pair.confirmed(pair.owner, "ACK", ranges=[[pair.lease, 0, HELD]])
    figures = pair.figures()
    assert (figures["settled"], figures["in_hand"], figures["dead_lettered"]) == (HELD, 0, 0)


@pytest.mark.usefixtures("others_unharmed")
def test_an_ack_beyond_the_own_lease_settles_only_what_is_in_it(broker, name):
    """Bad input 41: a consumer with 3 records acks 50,000; its neighbour's 7 stay."""
    with Publisher(broker, name) as publisher:
        publisher.publish_many(range(HELD))
    greedy, modest = (RawClient.consumer(broker.root, name, name) for _ in range(2))
    try:
        greedy.say("READ", "CONSUMER", credit=3)
        lease = greedy.hear()["lease"]
        modest.say("READ", "CONSUMER", credit=7)
        others = modest.hear()
        assert (others["first"], others["count"]) == (3, 7)
        greedy.say("ACK", "CONSUMER", number=1, ranges=[[lease, 0, 50_000], [lease, 3, 10], [others["lease"], 3, 10]], now=True)
        assert greedy.hear()["number"] == 1
        assert (figures_of(broker, name)["settled"], figures_of(broker, name)["in_hand"]) == (3, 7)
    finally:
        greedy.close()
        modest.close()


@pytest.mark.usefixtures("others_unharmed")
def test_the_same_ack_twice_counts_once(pair):
    """Bad input 41: it is confirmed each time."""
    for _ in range(3):
        pair.confirmed(pair.owner, "ACK", ranges=[[pair.lease, 0, 4], [pair.lease, 2, 5], [pair.lease, 0, 1]])
    assert (pair.figures()["settled"], pair.figures()["in_hand"]) == (5, 5)


@pytest.mark.usefixtures("others_unharmed")
@pytest.mark.parametrize("outcome", ["release", "drop", "retry", "dead_letter"])
def test_what_is_acked_cannot_be_taken_back(pair, outcome):
    """Bad input 41: a NACK after the ACK of the same records is confirmed, and they do not come again."""
    pair.confirmed(pair.owner, "ACK", ranges=[[pair.lease, 0, HELD]])
    pair.confirmed(pair.owner, "NACK", outcome=outcome, ranges=[[pair.lease, 0, HELD]], after=0.0)
    figures = pair.figures()
    assert (figures["settled"], figures["dead_lettered"], figures["waiting"]) == (HELD, 0, 0)
    pair.liar.say("READ", "CONSUMER", credit=HELD)
    assert pair.liar.hear_nothing(0.1)


@pytest.mark.usefixtures("others_unharmed")
def test_an_ack_after_a_release_counts_as_long_as_nobody_settled_it(pair):
    """Bad input 41: the record waits again; the late ack settles it, and it does not come again."""
    pair.confirmed(pair.owner, "NACK", outcome="release", ranges=[[pair.lease, 0, HELD]])
    pair.confirmed(pair.owner, "ACK", ranges=[[pair.lease, 0, HELD]])
    assert pair.figures()["settled"] == HELD
    pair.liar.say("READ", "CONSUMER", credit=HELD)
    assert pair.liar.hear_nothing(0.1)


@pytest.mark.usefixtures("others_unharmed")
def test_an_ack_after_the_lease_is_over_counts_once_and_hurts_nobody(broker, name):
    """Bad input 41: the record is in another's hand by then; the first ack settles it, the other changes nothing."""
    with Publisher(broker, name) as publisher:
        publisher.publish("only")
    late = RawClient.consumer(broker.root, name, name, settings={"ack_grace": 0.1})
    prompt = RawClient.consumer(broker.root, name, name)
    try:
        late.say("READ", "CONSUMER", credit=1)
        first = late.hear()
        prompt.say("READ", "CONSUMER", credit=1)
        second = prompt.hear()  # the lease of the first is over
        assert (second["first"], second["attempts"]) == (0, {"0": 1})
        assert late.hear()["credit"] == 0  # nothing was heard of it: it is asked what it wants
        for client, lease in ((late, first["lease"]), (prompt, second["lease"])):
            client.say("ACK", "CONSUMER", number=1, ranges=[[lease, 0, 1]], now=True)
            assert client.hear()["number"] == 1
            assert sink_of(broker, name)["settled"] == 1
        assert sink_of(broker, name)["late_acks"] == 1
    finally:
        late.close()
        prompt.close()


@pytest.mark.usefixtures("others_unharmed")
@pytest.mark.parametrize("after", [30 * 86_400.0, 1e18, 1e308])
def test_a_retry_in_the_far_future_stops_nobody(pair, after):
    """Bad input 41, 35: the kernel counts a wait in 32 bits of milliseconds, which is 24 days."""
    pair.confirmed(pair.owner, "NACK", outcome="retry", ranges=[[pair.lease, 0, HELD]], after=after)
    later = f"{pair.name}-later"
    until(
        lambda: pair.broker.stats()["publisher_broker"]["streams"].get(later, {}).get("records") == HELD,
        what="all of them wait",
    )
    with Publisher(pair.broker, pair.name) as publisher:
        publisher.publish("now")
    pair.liar.say("READ", "CONSUMER", credit=1)
    assert pair.liar.hear()["first"] == HELD


TOO_MUCH = {
    "50,001 ranges": ("ACK", {"number": 1, "ranges": [[0, 0, 1]] * 50_001}),
    "50,001 records to be tried again": ("NACK", {"number": 1, "outcome": "retry", "ranges": [[0, 0, 50_000], [0, 0, 1]]}),
    "many times 50,000 dead letters": ("NACK", {"number": 1, "outcome": "dead_letter", "ranges": [[0, 0, 50_000]] * 1_000}),
    "50,001 leases": ("EXTEND", {"leases": [0] * 50_001}),
    "50,001 abandoned": ("EXTEND", {"abandoned": [[0, 0]] * 50_001}),
    "a range of 50,001": ("ACK", {"number": 1, "ranges": [[0, 0, 50_001]]}),
    "an empty range": ("ACK", {"number": 1, "ranges": [[0, 5, 5]]}),
    "a range backwards": ("ACK", {"number": 1, "ranges": [[0, 5, 4]]}),
    "a range of two": ("ACK", {"number": 1, "ranges": [[0, 5]]}),
    "a range of four": ("ACK", {"number": 1, "ranges": [[0, 1, 2, 3]]}),
    "a range with a text": ("ACK", {"number": 1, "ranges": [[0, "1", 2]]}),
    "a range with true": ("ACK", {"number": 1, "ranges": [[0, True, 2]]}),
    "a range with a float": ("ACK", {"number": 1, "ranges": [[0, 0, 1.5]]}),
    "a negative lease": ("ACK", {"number": 1, "ranges": [[-1, 0, 1]]}),
    "a range that is a number": ("ACK", {"number": 1, "ranges": [1]}),
    "a bad range after a good one": ("ACK", {"number": 1, "ranges": [[0, 0, HELD], [0]]}),
    "no such outcome": ("NACK", {"number": 1, "outcome": "eat", "ranges": [[0, 0, 1]]}),
    "an ack among the nacks": ("NACK", {"number": 1, "outcome": "ack", "ranges": [[0, 0, 1]]}),
    "half an abandoned": ("EXTEND", {"abandoned": [[0]]}),
    "an abandoned that is none": ("EXTEND", {"abandoned": [None]}),
    "a negative lease alive": ("EXTEND", {"leases": [-1]}),
}


@pytest.mark.usefixtures("others_unharmed")
@pytest.mark.parametrize("strange", TOO_MUCH)
def test_what_no_consumer_could_mean_costs_its_connection_and_settles_nothing(pair, strange):
    """Bad input 39, 41: no turn takes long over one event, and a list with one bad part is refused as a whole."""
    kind, fields = TOO_MUCH[strange]
    pair.liar.say(kind, "CONSUMER", **fields)
    [answer] = pair.liar.hear_end()
    assert (answer["type"], answer["error"]) == ("NACK", "ProtocolError")
    assert len(answer["message"]) < 300
    assert (pair.figures()["settled"], pair.figures()["in_hand"]) == (0, HELD)


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.usefixtures("others_unharmed")
@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("ACK", {"number": 1, "ranges": [nested(900)]}),
        ("ACK", {"number": 1, "ranges": [[nested(900), 0, 1]]}),
        ("NACK", {"number": 1, "outcome": "retry", "ranges": [nested(900)]}),
        ("EXTEND", {"abandoned": [nested(900)]}),
        ("EXTEND", {"abandoned": [[0, nested(900)]]}),
    ],
)
def test_a_range_of_900_levels_is_refused(pair, kind, fields):
    """Bad input 20, 39: it can be read, but not shown."""
    pair.liar.say(kind, "CONSUMER", **fields)
    [answer] = pair.liar.hear_end()
    assert "[[...]]" in answer["message"]
    assert len(answer["message"]) < 300


@pytest.mark.usefixtures("others_unharmed")
def test_a_long_note_is_cut(pair):
    """Bad input 47: notes are kept, so one of 10 MiB must not be."""
    pair.owner.say("EXTEND", "CONSUMER", lease=pair.lease, offset=0, seconds=5, note="n" * 10_000_000)
    [note] = until(lambda: pair.figures()["notes"], what="the note is there")
    assert note["note"].startswith("nnn")
    assert len(note["note"]) <= 10_000


# --- the same id twice -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("others_unharmed")
def test_a_second_consumer_with_the_id_of_the_first_is_refused(broker, name, pair):
    """Bad input 43: as long as the first one lives, in the same sink; the first notices nothing."""
    taken = new_id()
    with RawClient.consumer(broker.root, name, name, id=taken) as first:
        with RawClient(broker.root) as second:
            second.say("REGISTER", "CONSUMER", id=taken, pid=1, sink=name, streams=[name])
            [answer] = second.hear_end()
        assert (answer["type"], answer["error"]) == ("NACK", "InUse")
        assert taken in answer["message"]
        pair.confirmed(pair.owner, "NACK", outcome="release", ranges=[[pair.lease, 0, HELD]])
        first.say("READ", "CONSUMER", credit=1)
        assert first.hear()["type"] == "TASK"
        assert taken in {client["id"] for client in broker.stats()["registered"]}


@pytest.mark.usefixtures("others_unharmed")
@pytest.mark.parametrize("again", [True, False], ids=["that comes again", "of another sink"])
def test_who_comes_last_with_an_id_has_it(broker, name, pair, again):
    """Bad input 43: a consumer that comes again, or that is of another sink; the old connection is closed, and what was in
    that hand comes back."""
    taken = new_id()
    pair.confirmed(pair.owner, "NACK", outcome="release", ranges=[[pair.lease, 0, HELD]])
    other = {"sink": name, "again": True} if again else {"sink": f"{name}-other"}
    with RawClient.consumer(broker.root, name, name, id=taken) as first:
        first.say("READ", "CONSUMER", credit=1)
        assert first.hear()["type"] == "TASK"
        with RawClient.consumer(broker.root, name, id=taken, **other) as second:
            assert first.hear_end() == []
            until(lambda: pair.figures()["in_hand"] == 0, what="the record came back")
            second.say("READ", "CONSUMER", credit=1)
            assert second.hear()["type"] == "TASK"
            # The manager must go on knowing that it is there. (Needs `Desk.supersede` in `ConsumerBroker._join`.)
            assert taken in {client["id"] for client in broker.stats()["registered"]}

"""What a publisher numbers wrongly is refused and told; the same again is the same again; its connection stays."""

from __future__ import annotations

import pytest
from raw_client import RECORD, RawClient, envelope, new_id, stored, write

OTHER = b'{"at":1,"payload":2}\n'


def answer_to(client: RawClient, frame: bytes) -> dict:
    client.send(frame)
    return client.hear()


@pytest.fixture
def publisher(broker, name):
    """One that has sent batches 0 to 2."""
    with RawClient.publisher(broker.root, name) as client:
        for sequence in range(3):
            assert answer_to(client, write(sequence))["first"] == sequence
        yield client


@pytest.mark.usefixtures("others_unharmed")
def test_the_same_batch_again_is_at_the_same_place(broker, name, publisher):
    """Bad input 42: whether it says that it comes again or not."""
    for sequence in (0, 1, 2, 1):
        for again in ({}, {"again": True}):
            answer = answer_to(publisher, write(sequence, **again))
            assert (answer["type"], answer["first"], answer["count"]) == ("ACK", sequence, 1)
    assert stored(broker, name) == 3


@pytest.mark.usefixtures("others_unharmed")
@pytest.mark.parametrize("frame", [write(1, OTHER), write(2, RECORD * 2, count=2), write(0, OTHER, again=True)])
def test_a_used_number_with_other_records_is_refused(broker, name, publisher, frame):
    """Bad input 42: a reused number with another body; the next number still works."""
    answer = answer_to(publisher, frame)
    assert (answer["type"], answer["error"]) == ("NACK", "SequenceError")
    assert answer_to(publisher, write(3))["first"] == 3
    assert stored(broker, name) == 4


@pytest.mark.usefixtures("others_unharmed")
@pytest.mark.parametrize("sequence", [4, 1_000, 2**63, 2**64 - 1])
def test_a_gap_is_refused(broker, name, publisher, sequence):
    """Bad input 42: nothing is stored, and the number that is next still works."""
    answer = answer_to(publisher, write(sequence))
    assert (answer["type"], answer["error"], answer["sequence"]) == ("NACK", "SequenceError", sequence)
    assert "3 is next" in answer["message"]
    assert answer_to(publisher, write(3))["first"] == 3
    assert stored(broker, name) == 4


@pytest.mark.usefixtures("others_unharmed")
def test_answers_come_in_the_order_of_the_batches(broker, name, publisher):
    """Bad input 42: a refusal never overtakes the batches before it, which wait for their commit; a publisher would miss it."""
    publisher.send(b"".join(map(write, (3, 9, 4, 8, 5))))
    answers = [publisher.hear() for _ in range(5)]
    assert [(answer["type"], answer["sequence"]) for answer in answers] == [
        ("ACK", 3), ("NACK", 9), ("ACK", 4), ("NACK", 8), ("ACK", 5),
    ]  # fmt: skip
    assert stored(broker, name) == 6


@pytest.mark.usefixtures("others_unharmed")
def test_a_number_from_long_ago_is_of_unknown_outcome(broker, name, publisher):
    """Bad input 42: going back further than what is remembered."""
    for sequence in range(3, 100):
        answer_to(publisher, write(sequence))
    answer = answer_to(publisher, write(0))
    assert (answer["type"], answer["error"]) == ("NACK", "OutcomeUnknown")
    assert answer_to(publisher, write(99))["first"] == 99
    assert stored(broker, name) == 100


@pytest.mark.usefixtures("others_unharmed")
def test_the_greatest_number_has_no_next_one(broker, name):
    """Bad input 42, 35: a publisher may begin anywhere; beyond 2^64-1 there is no number."""
    with RawClient.publisher(broker.root, name) as client:
        assert answer_to(client, write(2**64 - 1))["type"] == "ACK"
        assert answer_to(client, write(2**64 - 1))["first"] == 0
        client.send(write(2**64))
        [answer] = client.hear_end()
        assert "'sequence'" in answer["message"]
    assert stored(broker, name) == 1


@pytest.mark.usefixtures("others_unharmed")
def test_no_bucket_but_those_that_there_are(broker, name):
    """Bad input 39: a bucket beyond the last one."""
    for bucket in (1, 2**63):
        with RawClient.publisher(broker.root, name) as client:
            client.send(envelope("WRITE", "PUBLISHER", RECORD, bucket=bucket, sequence=0, count=1))
            [answer] = client.hear_end()
            assert f"no bucket {bucket}" in answer["message"]
    assert stored(broker, name) == 0


@pytest.mark.usefixtures("others_unharmed")
def test_a_publisher_that_comes_anew_takes_over_and_its_numbers_go_on(broker, name):
    """Bad input 43: the second connection of one id has it, the first is closed; nothing is stored twice."""
    taken = new_id()
    with RawClient.publisher(broker.root, name, id=taken) as first:
        assert answer_to(first, write(0))["first"] == 0
        with RawClient.publisher(broker.root, name, id=taken, again=True) as second:
            assert first.hear_end() == []
            assert answer_to(second, write(0, again=True))["first"] == 0
            assert answer_to(second, write(1))["first"] == 1
            # The manager must go on knowing that it is there. (Needs `Desk.supersede` in `PublisherBroker.on_client`.)
            assert taken in {client["id"] for client in broker.stats()["registered"]}
    assert stored(broker, name) == 2

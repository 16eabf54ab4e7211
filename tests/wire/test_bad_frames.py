"""Bytes that are no frame and frames that are no event: whoever says them, his own connection is closed, and nobody else's."""

from __future__ import annotations

import pickle

import pytest
from bad_bytes import FRAMES, PLACES, Explosive, waits_for_more
from raw_client import FRAME_BYTES_MAX, LENGTH, RECORD, RawClient, envelope, frame, memory_bytes, new_id, stored, write

from dq import Publisher
from stage import pids


@pytest.mark.usefixtures("others_unharmed")
@pytest.mark.parametrize("bad", FRAMES)
def test_what_is_no_event_costs_the_connection_that_it_came_by(broker, name, bad):
    """Bad input 20, 26, 28, 30 to 35, 39, 40: told so where it can be, closed, and nothing of it is stored."""
    content = FRAMES[bad]
    for place, connect in PLACES.items():
        with connect(broker.root, name) as client:
            client.send(content)
            if waits_for_more(content):
                client.finish()
            answers = client.hear_end()
        if not waits_for_more(content):
            assert [(answer["type"], answer["error"]) for answer in answers] == [("NACK", "ProtocolError")], place
            assert 10 < len(answers[0]["message"]) < 1_000, place
            assert answers[0]["message"].isprintable(), place
    assert stored(broker, name) == 0


@pytest.mark.usefixtures("others_unharmed")
@pytest.mark.parametrize("place", PLACES)
def test_a_length_that_no_frame_may_have_is_refused_in_words(broker, name, place):
    """Bad input 26: the error says what was found, and what would be taken."""
    for length in (0, FRAME_BYTES_MAX + 1, 2**32 - 1):
        with PLACES[place](broker.root, name) as client:
            client.send(LENGTH.pack(length))
            [answer] = client.hear_end()
            assert f"a frame of {length} bytes" in answer["message"]
            assert str(FRAME_BYTES_MAX) in answer["message"]


@pytest.mark.usefixtures("others_unharmed")
def test_nothing_is_allocated_for_a_frame_before_its_bytes_come(broker, name):
    """Bad input 26: 60 clients announce 16 MiB each, which would be 960 MiB; no process grows by 32."""
    processes = (broker.manager_pid, *pids(broker))
    clients = [PLACES[place](broker.root, name) for place in ("a client", "a publisher", "a consumer") for _ in range(20)]
    try:
        before = [memory_bytes(pid) for pid in processes]
        for client in clients:
            client.send(LENGTH.pack(FRAME_BYTES_MAX) + b"{")
        with RawClient.publisher(broker.root, name) as publisher:  # its answer shows that the broker has read what came before
            publisher.send(write(0))
            assert publisher.hear()["type"] == "ACK"
        broker.stats()
        grown = [memory_bytes(pid) - then for pid, then in zip(processes, before, strict=True)]
        assert max(grown) < 32 * 1024 * 1024
        for client in clients:
            assert client.hear_nothing(0.001)  # they are waited for
    finally:
        for client in clients:
            client.close()


@pytest.mark.usefixtures("others_unharmed")
def test_who_stays_silent_at_the_door_is_closed_after_its_time(broker):
    """Bad input 25: with nothing, with a byte, with half a frame, with a byte now and then; all of them at once."""
    hello = envelope("REGISTER", "CLIENT", id=new_id(), pid=1)
    said = {"nothing": b"", "a byte": b"\0", "half a length": b"\0\0", "a length": hello[:4], "half a frame": hello[:20]}
    clients = {what: RawClient(broker.root) for what in said}
    dribbler = RawClient(broker.root)
    try:
        for what, client in clients.items():
            client.send(said[what])
        with Publisher(broker, "quick") as publisher:
            assert publisher.publish(1).id.startswith("quick/0/")
        closed = False
        for place in range(12):  # 6 s, of which 5 are granted
            dribbler.send(hello[place : place + 1]) if not closed else None
            closed = closed or not dribbler.hear_nothing(0.5)
        assert closed
        for client in clients.values():
            assert client.hear_end(2) == []
    finally:
        for client in (*clients.values(), dribbler):
            client.close()


@pytest.mark.usefixtures("others_unharmed")
def test_who_is_registered_may_stay_silent_within_a_frame_and_holds_nobody_up(broker, name, neighbours):
    """Bad input 25: a publisher that says one byte, and goes on after the neighbours have worked."""
    whole = write(0)
    with RawClient.publisher(broker.root, name) as publisher:
        publisher.send(whole[:1])
        for _ in range(20):
            neighbours.round_trip()
        publisher.send(whole[1:])
        assert publisher.hear()["first"] == 0


@pytest.mark.usefixtures("others_unharmed")
@pytest.mark.parametrize("place", PLACES)
def test_pickle_is_never_loaded(broker, name, place, tmp_path):
    """Bad input 28, T21: bare, in a frame, as a line, and as the body of an event."""
    made = tmp_path / "made"
    bomb = pickle.dumps(Explosive(made))
    pickle.loads(bomb)  # it works
    made.rmdir()
    sequence = write(0, bomb + b"\n", count=bomb.count(b"\n") + 1)
    for content in (bomb, frame(bomb), frame(bomb + b"\n"), LENGTH.pack(len(bomb)) + bomb * 2, sequence):
        with PLACES[place](broker.root, name) as client:
            client.send(content)
            client.finish()
            client.hear_end()
    assert not made.exists()


@pytest.mark.usefixtures("others_unharmed")
def test_a_frame_may_come_byte_by_byte(broker, name):
    """Bad input 29: each byte by a write of its own, also of the hello."""
    with RawClient(broker.root) as client:
        for whole in (envelope("REGISTER", "PUBLISHER", id=new_id(), pid=1, stream=name, create=True), write(0), write(1)):
            for place in range(len(whole)):
                client.send(whole[place : place + 1])
            assert client.hear()["type"] == "ACK"
    assert stored(broker, name) == 2


@pytest.mark.usefixtures("others_unharmed")
def test_a_thousand_frames_may_come_at_once(broker, name):
    """Bad input 29: by one write, cut at a place that is no frame's end; each is answered, in order."""
    content = b"".join(write(sequence) for sequence in range(1_000))
    with RawClient.publisher(broker.root, name) as client:
        client.send(content[:-7])
        client.send(content[-7:])
        assert [client.hear()["first"] for _ in range(1_000)] == list(range(1_000))
    assert stored(broker, name) == 1_000


@pytest.mark.usefixtures("others_unharmed")
def test_the_bad_one_of_many_frames_ends_them(broker, name):
    """Bad input 29, 40: what came before it in the same write is stored and answered, what came after is not."""
    with RawClient.publisher(broker.root, name) as client:
        client.send(write(0) + write(1) + envelope("PING", "PUBLISHER") + write(2))
        answers = client.hear_end()
    assert [answer["type"] for answer in answers].count("NACK") == 1
    assert "PING" in next(answer["message"] for answer in answers if answer["type"] == "NACK")
    assert stored(broker, name) == 2


@pytest.mark.usefixtures("others_unharmed")
def test_more_than_the_hello_before_its_answer_is_refused(broker, name):
    """Bad input 29: what came with the hello would be lost on its way from the manager to the broker."""
    hello = envelope("REGISTER", "PUBLISHER", id=new_id(), pid=1, stream=name, create=True)
    for more in (write(0), write(0)[:9], b"\0"):
        with RawClient(broker.root) as client:
            client.send(hello + more)
            [answer] = client.hear_end()
            assert "waits for the answer" in answer["message"]
    assert stored(broker, name) == 0


@pytest.mark.usefixtures("others_unharmed")
def test_the_largest_record_goes_through_and_one_byte_more_does_not(broker, name):
    """Bad input 47: a record of the limit, and one over it, which is refused alone; its connection goes on."""
    line_bytes_max = 8 * 1024 * 1024
    around = len(b'{"at":1,"payload":""}\n')

    def of(size: int) -> bytes:
        return b'{"at":1,"payload":"%s"}\n' % (b"x" * (size - around))

    with RawClient.publisher(broker.root, name) as client:
        client.send(write(0, of(line_bytes_max)))
        assert client.hear()["type"] == "ACK"
        client.send(write(1, of(line_bytes_max + 1)))
        answer = client.hear()
        assert (answer["type"], answer["error"], answer["sequence"]) == ("NACK", "RecordTooLarge", 1)
        client.send(write(1, RECORD))
        assert client.hear()["type"] == "ACK"
    assert stored(broker, name) == 2

"""P12: listeners and tellers that lie, forget, or never read: they cost themselves alone."""

from __future__ import annotations

import pytest
from raw_client import RawClient, envelope, new_id

from dq.config import LIMITS

pytestmark = pytest.mark.usefixtures("others_unharmed")


def tell(number: int, channel: str, mode: str = "all", body: bytes = b'{"at":1,"payload":1}\n') -> bytes:
    return envelope("WRITE", "LISTENER", body, number=number, channel=channel, mode=mode)


def test_what_a_listener_answers_to_nothing_changes_nothing(broker, name):
    with RawClient.listener(broker.root, name) as listener:
        for number in (0, 1, 2**63):
            listener.say("ACK", "LISTENER", number=number)
            listener.say("NACK", "LISTENER", number=number, reason="x")
            listener.say("STATUS", "LISTENER", number=number)
        result = broker.broadcast(name, 1, mode="forget")
        assert result.told == 1
        assert listener.hear()["channel"] == name


def test_a_signal_can_be_answered_once(broker, name):
    with RawClient.listener(broker.root, name) as listener, RawClient.listener(broker.root) as teller:
        teller.send(tell(7, name))
        number = listener.hear()["number"]
        for _ in range(5):
            listener.say("NACK", "LISTENER", number=number, reason="again")
        assert teller.hear()["result"] == {"told": 1, "taken": 0, "failed": 1, "open": 0, "reasons": ["again"]}
        teller.send(tell(8, name))
        listener.hear()  # it was not dropped: it failed once
        teller.say("STATUS", "LISTENER", number=8)
        assert teller.hear()["result"]["open"] == 1


def test_what_was_told_to_one_cannot_be_answered_by_another(broker, name):
    with RawClient.listener(broker.root, name) as listener, RawClient.listener(broker.root) as teller:
        teller.send(tell(1, name))
        number = listener.hear()["number"]
        teller.say("ACK", "LISTENER", number=number)
        teller.say("STATUS", "LISTENER", number=1)
        assert teller.hear()["result"]["open"] == 1


def test_a_mode_that_there_is_not_and_a_number_twice_are_refused(broker, name):
    with RawClient.listener(broker.root, name):
        for content in (tell(1, name, "some"), tell(1, name) + tell(1, name)):
            with RawClient.listener(broker.root) as teller:
                teller.send(content)
                assert [answer["error"] for answer in teller.hear_end()] == ["ProtocolError"]


def test_a_teller_that_waits_for_too_much_is_cut_off(broker, name):
    with RawClient.listener(broker.root, name), RawClient.listener(broker.root) as teller:
        teller.send(b"".join(tell(n, name) for n in range(LIMITS.broadcasts_open_max + 1)))
        assert "one too many" in teller.hear_end()[-1]["message"]


def test_a_signal_that_is_no_record_is_refused_by_who_hears_it(broker, name):
    with broker.listen(name, lambda signal: None), RawClient.listener(broker.root) as teller:
        for number, body in enumerate((b"", b"{", b'{"at":"x","payload":1}\n')):
            teller.send(tell(number, name, body=body))
            result = teller.hear()["result"]
            assert result["failed"] == 1, body
            assert "cannot be read" in result["reasons"][0]


def test_channels_are_names_and_not_too_many(broker):
    for channels in (["a/b"], [""], ["x"] * (LIMITS.channels_max + 1)):
        with RawClient(broker.root) as client:
            client.send(envelope("REGISTER", "LISTENER", id=new_id(), pid=1, channels=channels))
            [answer] = client.hear_end()
            assert answer["error"] in ("InvalidName", "InvalidSetting")


def test_one_that_was_dropped_is_not_let_in_again_under_its_name(broker, name):
    with RawClient.listener(broker.root, name, id="stubborn") as listener:
        for _ in range(LIMITS.listener_failures_max):
            broker.broadcast(name, 1, mode="forget")
            listener.say("NACK", "LISTENER", number=listener.hear()["number"], reason="\x1b[31m")
        assert listener.hear_end()[-1]["error"] == "ListenerDropped"
    with RawClient(broker.root) as client:
        client.send(envelope("REGISTER", "LISTENER", id="stubborn", pid=1, channels=[name], again=True))
        [answer] = client.hear_end()
        assert answer["error"] == "ListenerDropped"
        assert "\x1b" not in answer["message"]


def test_a_listener_that_never_reads_large_signals_is_dropped_by_their_bytes(broker, name):
    body = b'{"at":1,"payload":"' + b"x" * (LIMITS.record_bytes_max - 100) + b'"}\n'
    with RawClient.listener(broker.root, name), RawClient.listener(broker.root) as teller:
        results = []
        for number in range(4):
            teller.send(tell(number, name, "forget", body))
            results.append(teller.hear()["result"])
        assert [(result["told"], result["failed"]) for result in results] == [(1, 0), (1, 0), (1, 1), (0, 0)]

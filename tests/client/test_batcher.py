"""The publisher's core: what goes again over a new connection."""

from __future__ import annotations

import orjson

from dq.client.batcher import Batcher
from dq.errors import DiskFull


def test_what_was_refused_behind_another_batch_does_not_go_again_over_a_new_connection() -> None:
    """Else it could be stored behind what was sent after it, under a number that follows by then."""
    # Given two batches under way, of which the first is refused: the second will be refused for the gap before it
    sent: list[dict[str, object]] = []
    batcher = Batcher("s", 1, "sync", 1, 0.0, 0, lambda line, _: sent.append(orjson.loads(line)) or True)
    with batcher.lock:
        first, _ = batcher.add(b'{"payload":1}\n', None, None, urgent=True, now=0.0)
        second, _ = batcher.add(b'{"payload":2}\n', None, None, urgent=True, now=0.0)
        assert batcher.refused(0, 0, DiskFull("no room"))[0] is first
        # And a third one that is sent under the number of the first
        third, _ = batcher.add(b'{"payload":3}\n', None, None, urgent=True, now=0.0)
        sent.clear()
        # When the connection is lost before the second was answered
        refused = batcher.resend()
    # Then only the third goes again, and the second is known to be refused
    assert [(event["sequence"], event["again"]) for event in sent] == [(0, True)]
    assert [(draft, type(error)) for draft, error in refused] == [(second, DiskFull)]
    with batcher.lock:
        assert batcher.stored(0, 0, 7, 1)[0] is third
        assert batcher.idle

"""What a consumer says about the tasks in its hand, checked and told to the sink's core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dq.broker.sink_run import SinkRun
from dq.config import LIMITS
from dq.core.notes import clip
from dq.errors import ProtocolError
from dq.model.event import Event
from dq.model.outcome import Outcome
from dq.model.shown import outlined


def acked(run: SinkRun, consumer: str, event: Event, now: float) -> None:
    """ACK: these are done; or, with `expired`, were not handed to the user's code, since their time was over."""
    settle = run.core.ack_expired if event.get("expired", False) else run.core.ack
    for lease, first, end in _triples(event["ranges"]):
        settle(consumer, lease, ((first, end),), now)


def given_back(run: SinkRun, consumer: str, event: Event, now: float) -> None:
    """NACK: these are not done, or not here."""
    core, outcome = run.core, event["outcome"]
    reason, error = event.get("reason", ""), event.get("error", "")
    triples = _triples(event["ranges"])
    if sum(end - first for _, first, end in triples) > LIMITS.prefetch_records_max:
        raise ProtocolError(f"NACK speaks of more records than the {LIMITS.prefetch_records_max:,} that a consumer may hold")
    for lease, first, end in triples:
        if outcome == Outcome.RELEASE:
            core.release(consumer, lease, ((first, end),), now)
        elif outcome == Outcome.DROP:
            core.drop(consumer, lease, ((first, end),), now)
        elif outcome == Outcome.RETRY:
            for offset in range(first, end):
                core.retry(consumer, lease, offset, event.get("after"), error, now)
        elif outcome == Outcome.DEAD_LETTER:
            for offset in range(first, end):
                core.dead_letter(consumer, lease, offset, reason, error, now)
        else:
            raise ProtocolError(f"NACK has no outcome {outlined(outcome)}")


def extended(run: SinkRun, consumer: str, event: Event, now: float) -> None:
    """EXTEND: a sign of life for leases, more time for one record, or a record that was left unsettled."""
    core, fields = run.core, event.fields
    if "leases" in fields:
        core.renew(consumer, [_whole(lease) for lease in _few(fields["leases"])], now)
    for pair in _few(fields.get("abandoned", ())):
        if not isinstance(pair, list) or len(pair) != 2:
            raise ProtocolError(f"EXTEND: {outlined(pair)} is no [lease, offset]")
        core.abandon(consumer, _whole(pair[0]), _whole(pair[1]), now)
    if "seconds" in fields:
        lease, offset = fields.get("lease", 0), fields.get("offset", 0)
        if core.extend(consumer, lease, offset, fields["seconds"], now):
            run.note_progress(lease, offset, clip(fields.get("note", "")))


def _whole(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ProtocolError(f"{outlined(value)} is no lease and no offset")
    return value


def _few(parts: Sequence[Any]) -> Sequence[Any]:
    """Checks that there are no more than a consumer may hold records, so that no turn takes long over one event."""
    if len(parts) > LIMITS.prefetch_records_max:
        raise ProtocolError(f"{len(parts):,} parts in one event; {LIMITS.prefetch_records_max:,} are the most")
    return parts


def _triples(ranges: Sequence[Any]) -> Sequence[tuple[int, int, int]]:
    """Checks what a consumer says of its leases: [lease, first, end) each."""
    for part in _few(ranges):
        if not isinstance(part, list) or len(part) != 3:
            raise ProtocolError(f"{outlined(part)} is no [lease, first, end]")
        lease, first, end = map(_whole, part)
        if not first < end or end - first > LIMITS.prefetch_records_max or lease < 0:
            raise ProtocolError(f"[{lease}, {first}, {end}] is an empty or too long range")
    return ranges

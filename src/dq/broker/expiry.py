"""What of the records that were read has expired, as far as the headers of their batches say."""

from __future__ import annotations

from dataclasses import replace

from dq.log.storage import Slice
from dq.model.about import About


def _is_over(about: About, wall: float) -> bool:
    """Whether all records of a batch have expired."""
    at = about.get("expired") if about is not None else None
    return isinstance(at, (int, float)) and at <= wall


def expired_ahead(found: Slice, wall: float) -> int:
    """How many records at the beginning of a slice are of batches of which all has expired."""
    count = 0
    for about, records in zip(found.abouts, found.counts, strict=False):
        if not _is_over(about, wall):
            break
        count += records
    return count


def before_expired(found: Slice, wall: float) -> Slice:
    """A slice up to the first batch of which all has expired. It is not the first of the slice."""
    parts = next((part for part, about in enumerate(found.abouts) if _is_over(about, wall)), None)
    if parts is None:
        return found
    counts, left, publishers = found.counts[:parts], sum(found.counts[:parts]), []
    for records, publisher in found.publishers:
        if left > 0:
            publishers.append((min(records, left), publisher))
        left -= records
    return replace(
        found, count=sum(counts), size=sum(map(len, found.parts[:parts])), parts=found.parts[:parts], publishers=publishers,
        counts=counts, topics=found.topics[:parts], abouts=found.abouts[:parts],
    )  # fmt: skip


def may_expire(found: Slice) -> bool:
    """Whether a record of a slice has a time after which it is not to be handed to the user's code."""
    return any(about is not None and "expires" in about for about in found.abouts)

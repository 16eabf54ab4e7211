"""The records of a queue on their way to its buckets: checked as a whole, shared out by a column, each share one batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dq.client.drafts import Draft
from dq.config import LIMITS
from dq.core.buckets import bucket_of
from dq.errors import DqError, InvalidPayload, InvalidSetting, MissingColumn, RecordTooLarge
from dq.model.receipt import Receipts, StoredRange
from dq.model.shown import shown

Line = Callable[[dict[str, Any], str], bytes]
"""(record, key) -> its line; raises what cannot be written."""


def bucket_id_of(value: object, buckets: int) -> int:
    """The bucket of a value of the column. None is "", as everywhere in a queue."""
    return bucket_of(key_of(value), buckets)


def key_of(value: object) -> str:
    """The key of a record with this value in its column."""
    return "" if value is None else str(value)


def checked(records: object, column: str) -> list[dict[str, Any]]:
    """The records, all of them such as can be put.

    Raises:
        InvalidPayload: a TypeError: not a dict, nor a list of dicts.
        MissingColumn: a ValueError: one has no such column.
    """
    listed = [records] if isinstance(records, dict) else records
    if not isinstance(listed, list):
        raise InvalidPayload(f"put takes a dict or a list of dicts, not {type(records).__name__}")
    for place, record in enumerate(listed):
        which = f"record {place} of the list" if listed is records else "the record"
        if not isinstance(record, dict):
            raise InvalidPayload(f"{which} is a {type(record).__name__}, not a dict: nothing was put")
        if column not in record:
            raise MissingColumn(
                f"{which} has no {column!r}, by which its bucket is chosen; it has {shown(list(record))}: nothing was put"
            )
    return listed


def shares_of(records: list[dict[str, Any]], column: str, buckets: int, durability: str, line_of: Line) -> list[Draft]:
    """One batch for each bucket that gets any.

    Raises:
        RecordTooLarge: a share is more than one batch can be, which alone is stored whole or not at all.
    """
    drafts: dict[int, Draft] = {}
    for record in records:
        key = key_of(record[column])
        bucket = bucket_of(key, buckets)
        draft = drafts.get(bucket)
        if draft is None:
            draft = drafts[bucket] = Draft(bucket, durability)
        draft.lines += line_of(record, key)
        draft.count += 1
    for draft in drafts.values():
        if draft.count > LIMITS.batch_records_max or (draft.count > 1 and len(draft.lines) > LIMITS.batch_bytes_max):
            raise RecordTooLarge(
                f"{draft.count:,} records of {len(draft.lines):,} bytes for bucket {draft.bucket}: a share is stored whole or "
                f"not at all, up to {LIMITS.batch_records_max:,} records and {LIMITS.batch_bytes_max:,} bytes. Put fewer at "
                "once; nothing was put"
            )
    return list(drafts.values())


def receipts_of(drafts: list[Draft]) -> Receipts:
    """The receipts of batches that are all answered.

    Raises:
        DqError: the first error of one of them; it says what is stored, and has the `.receipts` of that.
    """
    receipts = Receipts(
        [d.outcome for d in drafts if isinstance(d.outcome, StoredRange)], drafts[0].durability if drafts else ""
    )
    failed = [draft for draft in drafts if isinstance(draft.outcome, DqError)]
    if not failed:
        return receipts
    first = failed[0].outcome
    if not isinstance(first, DqError):
        raise RuntimeError("a batch that failed has no error")
    stored = ", ".join(f"{part.count} in bucket {part.bucket}" for part in receipts.ranges) or "none"
    refused = ", ".join(f"{draft.count} in bucket {draft.bucket}" for draft in failed)
    error = type(first)(f"{first}. Of the records that were put, stored are: {stored}; not confirmed: {refused}")
    error.receipts = receipts
    raise error from first


def chosen_buckets(
    buckets: int, bucket_id: int | None, bucket_ids: list[int] | None, rank: int | None, world_size: int | None
) -> list[int]:
    """Which buckets a reader reads: by rank and world_size, else by bucket_id, else by bucket_ids, else all.

    Raises:
        InvalidSetting: one of them cannot be meant.
    """
    if (rank is None) != (world_size is None):
        raise InvalidSetting("rank and world_size go together: rank r of w reads the buckets i with i % w == r")
    if rank is not None and world_size is not None:
        if not _is_whole(rank) or not _is_whole(world_size) or not 0 <= rank < world_size:
            raise InvalidSetting(f"rank must be from 0 to below world_size, not rank={rank!r}, world_size={world_size!r}")
        return [bucket for bucket in range(buckets) if bucket % world_size == rank]
    wanted = [bucket_id] if bucket_id is not None else bucket_ids
    if wanted is None:
        return list(range(buckets))
    for bucket in wanted:
        if not _is_whole(bucket) or not 0 <= bucket < buckets:
            raise InvalidSetting(f"there is no bucket {bucket!r}: the queue has {buckets}, from 0 to {buckets - 1}")
    return sorted(set(wanted))


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

"""`state_at`: what a stream and its sinks looked like at a moment, rebuilt from the logs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dq.core.leases import Lease
from dq.core.ledger import Ledger
from dq.core.states import State
from dq.errors import Damaged, InvalidSetting, RecordsTrimmed, UnknownRecord
from dq.history.events import id_of
from dq.history.lineage import place_of_id
from dq.history.read_notes import blamed_on, chosen_sinks, notes_of
from dq.history.rebuilt import Rebuilt, Said
from dq.history.shelf import TRIES, Shelf, StreamLook, trimmed_meanwhile
from dq.history.values import BucketThen, BurnedThen, HeldThen, SinkThen, StreamThen
from dq.log.files import Files
from dq.model.shown import shown

When = datetime | timedelta | int | str


def state_at(root: Path | str | os.PathLike[str], stream: str, when: When, *, sink: str | None = None) -> StreamThen:
    """What a stream and its sinks looked like: what waited, in whose hands what was, what was settled; as far as the logs are
    kept. It needs no broker, and one that runs is not disturbed.

    Args:
        root: the data directory.
        stream: its name.
        when: an aware datetime, or a timedelta ago; the id of a record, or its offset where there is one bucket: when that had
            just been committed.
        sink: tell of this sink alone.

    Raises:
        UnknownStream, UnknownSink, UnknownRecord: there is none. InvalidSetting: `when` is nothing of these.
        Damaged, NewerFormat: a log that was looked into cannot be used; the message names the file and the byte.
        LogError: it cannot be read.
    """
    root, files = Path(root), Files()
    for _ in range(TRIES):
        with Shelf(files, root) as shelf, suppress(RecordsTrimmed):
            look = shelf.stream(stream)
            at = _moment_of(look, when)
            buckets = tuple(_bucket(look, bucket, at) for bucket in range(look.buckets))
            sinks, gaps = _sinks_at(files, root, chosen_sinks(files, root, sink), buckets, stream, at)
            return StreamThen(stream=stream, at=at, buckets=buckets, sinks=sinks, gaps=(*_unknown_ends(buckets), *gaps))
    raise trimmed_meanwhile(root)


def _unknown_ends(buckets: Iterable[BucketThen]) -> Iterable[str]:
    for each in buckets:
        if each.end is None:
            yield f"bucket {each.bucket}: what it held then is not kept any more; it begins at offset {each.first}"


def _sinks_at(
    files: Files, root: Path, names: Iterable[str], buckets: Iterable[BucketThen], stream: str, at: float
) -> tuple[tuple[SinkThen, ...], list[str]]:
    ends = {each.bucket: each.end for each in buckets}
    sinks, gaps = list[SinkThen](), list[str]()
    for name in names:
        try:
            rebuilt = rebuilt_at(notes_of(files, root, name), at)
        except Damaged as error:
            raise blamed_on(root, name, error) from error
        if isinstance(rebuilt, str):
            gaps.append(f"sink {name}: {rebuilt}")
        elif (then := sink_then(rebuilt, name, stream, ends)) is not None:
            sinks.append(then)
    return tuple(sinks), gaps


def _moment_of(look: StreamLook, when: When) -> float:
    if isinstance(when, timedelta):
        if when < timedelta():
            raise InvalidSetting(f"{when!r} lies in the future: a timedelta says how long ago")
        return time.time() - when.total_seconds()
    if isinstance(when, datetime):
        if when.tzinfo is None:
            raise InvalidSetting(f"{when!r} has no time zone: use datetime.now(UTC) or .astimezone()")
        return when.timestamp()
    if isinstance(when, str) and (place := place_of_id(when)) is not None:
        if place[0] != look.name:
            raise InvalidSetting(f"{when} is no record of stream {look.name!r}")
        return _committed(look, place[1], place[2])
    if isinstance(when, int) and not isinstance(when, bool):
        if look.buckets > 1:
            raise InvalidSetting(f"stream {look.name!r} has {look.buckets} buckets: say {look.name}/0/{when}, not {when}")
        return _committed(look, 0, when)
    raise InvalidSetting(f"{shown(when)} is no moment: an aware datetime, a timedelta ago, the id of a record or its offset")


def _committed(look: StreamLook, bucket: int, offset: int) -> float:
    found = look.record(bucket, offset)
    at = None if found is None else found.batch.at or found.at
    if at is None:
        where = (
            f"it has {look.first(bucket)} to {look.end(bucket) - 1}" if look.tells and bucket < look.buckets else "see there"
        )
        raise UnknownRecord(f"there is no record {id_of((look.name, bucket, offset))}, or it is not kept any more: {where}")
    return at


def _bucket(look: StreamLook, bucket: int, at: float) -> BucketThen:
    first = look.first(bucket) if look.tells else 0
    return BucketThen(bucket=bucket, first=first, end=look.end_at(bucket, at))


def rebuilt_at(notes: Iterable[Said], at: float) -> Rebuilt | str:
    """A sink as it stood; or, in words, why that is not known. Pure. Raises Damaged: a note cannot follow those before it."""
    rebuilt, first = Rebuilt(), list[Said]()

    def remembered() -> Iterable[Said]:
        for said in notes:
            if not first:
                first.append(said)
            yield said

    rebuilt.take_until(remembered(), at)
    if rebuilt.since is not None:
        return rebuilt
    if not first:
        return "its log is empty"
    begin = datetime.fromtimestamp(first[0].at, UTC).astimezone().isoformat(sep=" ", timespec="milliseconds")
    if next(iter(first[0].note), "") == "snapshot":
        return f"what was before {begin} is not kept"
    return f"it began at {begin}"


def sink_then(rebuilt: Rebuilt, sink: str, stream: str, ends: dict[int, int | None]) -> SinkThen | None:
    """What a rebuilt sink had of a stream; None where it was not over it. `ends`: of the buckets then."""
    ledgers = [ledger for (name, _), ledger in sorted(rebuilt.book.ledgers.items()) if name == stream]
    if not ledgers:
        return None
    waiting = [_waiting(ledger, ends.get(ledger.shard[1])) for ledger in ledgers]
    held = [_held(rebuilt, lease) for ledger in ledgers for lease in ledger.leases.values()]
    return SinkThen(
        sink=sink,
        settled=sum(ledger.floor + ledger.settled.count for ledger in ledgers),
        waiting=None if None in waiting else sum(each for each in waiting if each is not None),
        in_hand=sum(each.records for each in held),
        delayed=sum(len(ledger.delayed) for ledger in ledgers),
        dying=sum(len(ledger.dying) for ledger in ledgers),
        paused=rebuilt.book.paused,
        held=tuple(sorted(held, key=lambda each: each.lease)),
        burned=tuple(each for ledger in ledgers for each in _burned(ledger)),
    )


def _waiting(ledger: Ledger, end: int | None) -> int | None:
    back = ledger.returned.count + ledger.suspects.count
    return None if end is None else max(end - ledger.next, 0) + back


def _held(rebuilt: Rebuilt, lease: Lease) -> HeldThen:
    return HeldThen(
        consumer=lease.hand.name,
        pid=lease.hand.pid,
        lease=lease.number,
        bucket=lease.shard[1],
        ranges=tuple(lease.open),
        records=lease.open.count,
        since=rebuilt.leased_at.get(lease.number),
        alone=lease.state is State.ISOLATED,
    )


def _burned(ledger: Ledger) -> Iterable[BurnedThen]:
    for offset, burned in sorted(ledger.burned.items()):
        yield BurnedThen(
            record=id_of((*ledger.shard, offset)),
            attempts=burned.attempts,
            error=burned.error,
            state=ledger.state_of(offset).value,
        )

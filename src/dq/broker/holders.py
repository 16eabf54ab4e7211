"""Who holds what, told to whoever asks; and records taken back from who holds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dq.broker.sink_run import SinkRun
from dq.broker.sinks import Sinks
from dq.clock import Clock
from dq.config import LIMITS
from dq.core.holders import Held
from dq.core.ranges import RangeSet
from dq.errors import InvalidSetting
from dq.model.event import Event
from dq.model.names import check_name
from dq.model.shown import shown
from dq.model.start import parse_start
from dq.processes import usage_of

Result = dict[str, Any]
_NOTE_CHARS_MAX = 500
_IDS_MAX = 10_000


class Holders:
    """Answers who holds what. No answer has more than `holdings_max` leases, and none walks over all that there are.

    Args:
        sinks: of the directory.
        clock: of this process.
    """

    def __init__(self, sinks: Sinks, clock: Clock) -> None:
        self._sinks, self._clock = sinks, clock

    def tell(self, event: Event) -> Result:
        """The leases of a sink, or of all.

        Raises:
            UnknownSink, InvalidName, InvalidSetting: as their names say.
        """
        wish = event.get("wish", {})
        stream, consumer, left = wish.get("stream"), wish.get("consumer"), wish.get("limit", LIMITS.holdings_max)
        if not all(each is None or isinstance(each, str) for each in (stream, consumer)) or type(left) is not int or left < 0:
            raise InvalidSetting("leases are asked for by the names of a stream and a consumer, and up to a number of them")
        left = min(left, LIMITS.holdings_max)
        name = event["name"]
        runs = [self._sinks.get(check_name("sink", name))] if name else sorted(self._sinks, key=lambda run: run.name)
        count, told, ages = 0, list[dict[str, Any]](), dict[int, float | None]()
        for run in runs:
            holders = run.core.holders
            count += holders.count(stream, consumer)
            if left:
                found = holders.listed(left, stream, consumer)
                notes = run.progress() if found else {}
                told += [self._told(run, held, notes, ages) for held in found]
                left -= len(found)
        return {"count": count, "holdings": told}

    def _told(
        self, run: SinkRun, held: Held, notes: Mapping[int, Iterable[tuple[int, str]]], ages: dict[int, float | None]
    ) -> dict[str, Any]:
        wall, now = self._clock.wall(), self._clock.monotonic()
        pid = held.pid or None
        if pid is not None and pid not in ages:
            usage = usage_of(pid)
            ages[pid] = None if usage is None else usage.age
        age = None if pid is None else ages[pid]
        said = [text for offset, text in notes.get(held.lease, ()) if any(first <= offset < stop for first, stop in held.open)]
        return {
            "sink": run.name,
            "stream": held.shard[0],
            "bucket": held.shard[1],
            "first": held.open[0][0],
            "last": held.open[-1][1] - 1,
            "open": sum(stop - first for first, stop in held.open),
            "lease": held.lease,
            "consumer": held.consumer,
            "pid": pid,
            "started": None if age is None else wall - age,
            "since": None if held.since is None else wall - (now - held.since),
            "until": None if held.until is None else wall + (held.until - now),
            "extended": held.extended,
            "attempt": held.attempt,
            "note": said[-1][:_NOTE_CHARS_MAX] if said else "",
            "state": "awaited" if held.awaited else "silent" if held.silent else "connected",
        }


def take_back(run: SinkRun, ids: Sequence[str], consumer: object) -> int:
    """Takes records out of the hands that have them, or all that a consumer has. Returns how many came back.

    Raises:
        InvalidSetting: one is no id, they are too many for one turn, or neither is said.
        InUse: the sink is ordered, and one before them is to stay in hand.
    """
    if len(ids) > _IDS_MAX:
        raise InvalidSetting(f"{len(ids):,} records are to be taken back; {_IDS_MAX:,} are the most at once")
    wanted: dict[tuple[str, int], RangeSet] = {}
    for each in ids:
        stream, bucket, offset = _place(each)
        wanted.setdefault((stream, bucket), RangeSet()).add(offset, offset + 1)
    if isinstance(consumer, str) and not wanted:
        return run.core.holders.take_all_back(consumer)
    if consumer is not None or not wanted:
        raise InvalidSetting("records are taken back by their ids, or all that one consumer has")
    return run.core.holders.take_back(wanted)


def _place(record: str) -> tuple[str, int, int]:
    try:
        after = parse_start(record).after
    except InvalidSetting:
        after = None
    if after is None:
        raise InvalidSetting(f"{shown(record)} is no id of a record, as orders/0/17")
    return after

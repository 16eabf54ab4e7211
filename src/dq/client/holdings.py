"""Who holds what, as frozen values for whoever asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Self

_MOMENTS = ("started", "since", "until")


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """One lease: records of a bucket in the hand of a consumer, as it stood a moment ago. All moments are aware, in UTC.

    Attributes:
        sink, stream, bucket: whose records.
        first, last: the offsets of the first and the last record that are still in hand.
        open: how many are; those between that are not were settled already.
        lease: its number, by which the sink's log and the events name it.
        consumer: the id of who has it.
        pid: of its process, as it said; None where that is not known.
        started: when the process of that pid began, by which it is told from a later one of the same number: of one that is
            awaited it may be another. None where there is none, or the system does not say.
        since: when the lease was given; None where that was before the broker was started.
        until: when the first of it comes back unless it is renewed, as it is while its process lives; of one that is awaited,
            unless its consumer is back by then.
        extended: that is a time of its own, by `task.extend()` or since its task was left unsettled: it is not renewed.
        attempt: the highest attempt of its records, from 1.
        note: what its code said of it last, by `task.extend(note=...)`; at most 500 characters.
        state: "connected"; "silent" if its consumer was not heard of for so long that leases of it expired; "awaited" if it
            has not come back since the broker was started.
    """

    sink: str
    stream: str
    bucket: int
    first: int
    last: int
    open: int
    lease: int
    consumer: str
    pid: int | None
    started: datetime | None
    since: datetime | None
    until: datetime | None
    extended: bool
    attempt: int
    note: str
    state: Literal["connected", "silent", "awaited"]

    @property
    def id(self) -> str:
        """The id of its first record."""
        return f"{self.stream}/{self.bucket}/{self.first}"

    @property
    def ids(self) -> str:
        """Its records for people: `orders/0/17`, or `orders/0/17..24`."""
        return self.id if self.first == self.last else f"{self.id}..{self.last}"

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Self:
        """From what the broker tells of it."""
        moments = {name: None if told[name] is None else datetime.fromtimestamp(told[name], UTC) for name in _MOMENTS}
        return cls(**{**told, **moments})


@dataclass(frozen=True, slots=True)
class Holdings:
    """Leases, by sink; those of a sink from the oldest on. `for holding in holdings`.

    Attributes:
        listed: those that were asked for.
        more: how many there are beside them.
    """

    listed: tuple[Holding, ...]
    more: int

    def __iter__(self) -> Iterator[Holding]:
        return iter(self.listed)

    def __len__(self) -> int:
        return len(self.listed)

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Self:
        """From what the broker tells of them."""
        listed = tuple(map(Holding.of, told["holdings"]))
        return cls(listed, max(told["count"] - len(listed), 0))


def holdings_wish(stream: str | None = None, consumer: str | None = None, limit: int | None = None) -> dict[str, Any]:
    """What is asked for, as it is sent."""
    wish = {"stream": stream, "consumer": consumer, "limit": limit}
    return {name: value for name, value in wish.items() if value is not None}

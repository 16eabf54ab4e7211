"""The settings of streams and sinks: checked when they are made, kept with the data, compared when asked for again."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from dq.errors import InvalidSetting, SettingsMismatch
from dq.model.shown import shown

DURABILITIES = ("sync", "interval", "os", "memory")
MEMORY = "memory"
"""The name of the backend whose streams live in memory, and of its durability: one does not go without the other."""
_AS_THE_BACKEND = "as the backend has it"
RETENTIONS = ("settled", "forever")
STARTS = ("oldest", "newest")


def _check_number(name: str, value: object, low: float, high: float, *, whole: bool) -> None:
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value) or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        raise InvalidSetting(f"{name} must be {kind} from {low:g} to {high:g}, not {shown(value)}")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidSetting(f"{name} must be one of {', '.join(map(repr, choices))}, not {shown(value)}")


class _Settings:
    """What both kinds share: a dict and back, and the comparison with what is kept."""

    __slots__ = ()

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Raises InvalidSetting for an unknown key; missing keys take their defaults."""
        known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(values) - known)
        if unknown:
            raise InvalidSetting(f"unknown setting {unknown[0]!r:.200}; known are {', '.join(sorted(known))}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload, no-any-return]

    def check_wish(self, kind: str, name: str, wish: dict[str, Any]) -> None:
        """Compares the settings that were asked for with these, which are kept.

        Raises:
            SettingsMismatch: one of them differs; the message shows both.
        """
        type(self).from_dict(wish)
        kept = self.to_dict()
        differing = [f"{key}={kept[key]!r} (asked for: {value!r})" for key, value in wish.items() if kept[key] != value]
        if differing:
            raise SettingsMismatch(f"{kind} {name!r} exists with {', '.join(differing)}: ask for what it has, or leave it out")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings(_Settings):
    """Settings of a stream.

    Attributes:
        buckets: shards, fixed for ever; default 1.
        durability: when a receipt is given. "sync" (default): the batch is on disk. "interval": it is written, and flushed
            within `sync_seconds`. "os": it is written, and the system flushes it when it likes, 30 s later as a rule. With
            these two it survives the death of every dq process, not that of the machine. "memory": it is kept by the
            `memory` backend, until the broker stops.
        sync_seconds: how often a stream with durability "interval" is flushed; default 1.
        retention: "settled" (default) drops a segment once every sink has settled it and `keep_seconds` have passed or
            the stream is over `keep_bytes`; "forever" drops nothing.
        keep_seconds: default one day.
        keep_bytes: default 1 GiB.
        segment_bytes: size at which a segment is closed; default 64 MiB.
        backend: name of the storage backend; default "json". With "memory" the durability is "memory" too.
    """

    buckets: int = 1
    durability: str = _AS_THE_BACKEND
    sync_seconds: float = 1.0
    retention: str = "settled"
    keep_seconds: float = 86_400.0
    keep_bytes: int = 1 << 30
    segment_bytes: int = 64 << 20
    backend: str = "json"

    def __post_init__(self) -> None:
        _check_number("buckets", self.buckets, 1, 1024, whole=True)
        in_memory = self.backend == MEMORY
        if self.durability == _AS_THE_BACKEND:
            object.__setattr__(self, "durability", MEMORY if in_memory else "sync")
        _check_choice("durability", self.durability, DURABILITIES)
        if in_memory != (self.durability == MEMORY):
            raise InvalidSetting(
                f"backend={shown(self.backend)} cannot have durability={self.durability!r}: "
                + ("what is in memory ends with the broker; leave durability out" if in_memory else "that is backend='memory'")
            )
        _check_number("sync_seconds", self.sync_seconds, 0.01, 3600, whole=False)
        _check_choice("retention", self.retention, RETENTIONS)
        _check_number("keep_seconds", self.keep_seconds, 0, 10**10, whole=False)
        _check_number("keep_bytes", self.keep_bytes, 0, 1 << 62, whole=True)
        _check_number("segment_bytes", self.segment_bytes, 4096, 1 << 40, whole=True)
        if not isinstance(self.backend, str) or not self.backend:
            raise InvalidSetting(f"backend must be the name of a storage backend, not {shown(self.backend)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkSettings(_Settings):
    """Settings of a sink.

    Attributes:
        start: where a new sink begins, "oldest" (default) or "newest".
        ack_grace: seconds without a sign of life after which a lease ends; default 20.
        max_attempts: deliveries of one record before it is dead-lettered; default 5.
    """

    start: str = "oldest"
    ack_grace: float = 20.0
    max_attempts: int = 5

    def __post_init__(self) -> None:
        _check_choice("start", self.start, STARTS)
        _check_number("ack_grace", self.ack_grace, 0.05, 7 * 86_400, whole=False)
        _check_number("max_attempts", self.max_attempts, 1, 1_000_000, whole=True)

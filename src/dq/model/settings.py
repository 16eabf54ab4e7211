"""The settings of streams and sinks: checked when they are made, kept with the data, compared when asked for again."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

import orjson

from dq.errors import InvalidSetting, SettingsMismatch
from dq.model.names import check_name
from dq.model.shown import shown
from dq.model.start import parse_start

DURABILITIES = ("sync", "interval", "os", "memory", "backend")
MEMORY = "memory"
"""The name of the backend whose streams live in memory, and of its durability: one does not go without the other."""
BY_CLASS = "backend"
"""The durability of a stream whose backend is a class in the other form: what a receipt says is what that class promises."""
OPTIONS_BYTES_MAX = 65_536
_LATER_SEGMENT_BYTES = 16 << 20
_SCALARS = (str, int, float, bool, type(None))
_AS_THE_BACKEND = "as the backend has it"
_AS_THE_LIMITS = "as the limits have it"
RETENTIONS = ("settled", "limits", "forever")
BUCKETS_MAX = 1024
PRIORITIES_MAX = 10
PATTERN_CHARS_MAX = 1_000
"""Of a pattern: longer ones are lists of topics, and a sink for each is clearer."""


def _check_number(name: str, value: object, low: float, high: float, *, whole: bool) -> None:
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value) or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        raise InvalidSetting(f"{name} must be {kind} from {low:g} to {high:g}, not {shown(value)}")


def _check_optional(name: str, value: object, low: float, high: float, *, whole: bool) -> None:
    if value is not None:
        _check_number(name, value, low, high, whole=whole)


def _check_flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise InvalidSetting(f"{name} must be True or False, not {shown(value)}")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidSetting(f"{name} must be one of {', '.join(map(repr, choices))}, not {shown(value)}")


class _Settings:
    """What both kinds share: a dict and back, and the comparison with what is kept."""

    __slots__ = ()
    FREE: ClassVar[frozenset[str]] = frozenset()
    """Settings that count only while the thing is made: a different wish later is passed over."""

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
        wished, kept = type(self).from_dict(wish).to_dict(), self.to_dict()
        differing = [
            f"{key}={kept[key]!r} (asked for: {wished[key]!r})"
            for key in wish
            if kept[key] != wished[key] and key not in self.FREE
        ]
        if differing:
            raise SettingsMismatch(f"{kind} {name!r} exists with {', '.join(differing)}: ask for what it has, or leave it out")


def _options_text(options: object) -> str:
    """The options of a backend in the one form in which they can be kept and compared."""
    try:
        values = {} if options in (None, "") else orjson.loads(options) if isinstance(options, str) else options
        if not isinstance(values, dict) or any(not isinstance(value, _SCALARS) for value in values.values()):
            raise TypeError("it is no dict of such values")
        text = orjson.dumps(values, option=orjson.OPT_SORT_KEYS).decode() if values else ""
    except (TypeError, ValueError) as error:
        raise InvalidSetting(
            f"backend_options must be a dict of texts, numbers, True, False and None by name, not {shown(options)}: {error}"
        ) from error
    if len(text) > OPTIONS_BYTES_MAX:
        raise InvalidSetting(f"backend_options take {len(text):,} bytes as JSON; {OPTIONS_BYTES_MAX:,} are the most")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings(_Settings):
    """Settings of a stream.

    Attributes:
        buckets: shards, fixed for ever; default 1.
        priorities: how many priorities its records can have, fixed for ever; 1 (default) to 10. Each is a lane of `buckets`
            shards of its own: the bucket of a record is `priority * buckets` and the one that its key has. Buckets times
            priorities are at most 1024.
        durability: when a receipt is given. "sync" (default): the batch is on disk. "interval": it is written, and flushed
            within `sync_seconds`. "os": it is written, and the system flushes it when it likes, 30 s later as a rule. With
            these two it survives the death of every dq process, not that of the machine. "memory": it is kept by the
            `memory` backend, until the broker stops. "backend": the class that keeps it has taken it and was asked to
            flush it within `sync_seconds`; what that is worth is for the class to say.
        sync_seconds: how often a stream with durability "interval" is flushed; default 1.
        retention: "settled" (default) drops a segment once every sink has settled it and `keep_seconds` have passed or
            the stream is over `keep_bytes`; "limits" (the default where one of the `max_` limits is given) keeps what is
            within them, read or not; "forever" drops nothing.
        keep_seconds: default one day.
        keep_bytes: default 1 GiB.
        max_records: the newest that are kept; exact for one bucket, and of several each keeps an equal share, rounded up;
            default None, no limit.
        max_bytes: of all buckets together, on disk; the oldest segment goes first, but never the one that is written;
            default None, no limit.
        max_age: seconds for which a record is kept; it is gone within a second or two after that; default None, no limit.
        ttl: seconds after which the whole stream is destroyed; default None, never.
        ttl_sliding: whether each record that is added renews the `ttl`; default False: it counts from when the stream was made.
        once_seconds: for how long a key of `publish(once=)` is remembered: within it no second record is stored under that
            key. Longer than a publisher may look for a broker that went away, which is 30 s; default 300, five minutes.
        segment_bytes: size at which a segment is closed; default 64 MiB.
        backend: name of the storage backend; default "json". With "memory" the durability is "memory" too. A class of the
            user's own is named as "module:qualname".
        backend_options: what a class of the user's own is made with, as the text of a JSON object of texts, numbers, True,
            False and None; a dict is written as that. Default "": nothing.
        backend_path: the directory from which such a class can be imported, where the broker does not find it by itself.
            It counts only while the stream is new.
    """

    FREE: ClassVar[frozenset[str]] = frozenset({"backend_path"})

    buckets: int = 1
    priorities: int = 1
    durability: str = _AS_THE_BACKEND
    sync_seconds: float = 1.0
    retention: str = _AS_THE_LIMITS
    keep_seconds: float = 86_400.0
    keep_bytes: int = 1 << 30
    max_records: int | None = None
    max_bytes: int | None = None
    max_age: float | None = None
    ttl: float | None = None
    ttl_sliding: bool = False
    once_seconds: float = 300.0
    segment_bytes: int = 64 << 20
    backend: str = "json"
    backend_options: str = ""
    backend_path: str = ""

    def __post_init__(self) -> None:
        _check_number("buckets", self.buckets, 1, BUCKETS_MAX, whole=True)
        _check_number("priorities", self.priorities, 1, PRIORITIES_MAX, whole=True)
        if self.bucket_count > BUCKETS_MAX:
            raise InvalidSetting(
                f"buckets={self.buckets} for each of priorities={self.priorities} are {self.bucket_count} buckets; "
                f"{BUCKETS_MAX} are the most of a stream: give it fewer of the one or of the other"
            )
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
        self._check_retention()
        _check_number("keep_seconds", self.keep_seconds, 0, 10**10, whole=False)
        _check_number("keep_bytes", self.keep_bytes, 0, 1 << 62, whole=True)
        _check_number("once_seconds", self.once_seconds, 0.1, 10**7, whole=False)
        _check_number("segment_bytes", self.segment_bytes, 4096, 1 << 40, whole=True)
        if not isinstance(self.backend, str) or not self.backend:
            raise InvalidSetting(f"backend must be the name of a storage backend, not {shown(self.backend)}")
        object.__setattr__(self, "backend_options", _options_text(self.backend_options))
        if not isinstance(self.backend_path, str):
            raise InvalidSetting(f"backend_path must be the path of a directory, as a text, not {shown(self.backend_path)}")

    @property
    def bucket_count(self) -> int:
        """Shards of all priorities together: bucket `lane * buckets + b` is of priority `lane`."""
        return self.buckets * self.priorities

    @property
    def options(self) -> dict[str, Any]:
        """The `backend_options` as a dict."""
        found: dict[str, Any] = orjson.loads(self.backend_options or "{}")
        return found

    def of_later(self) -> Self:
        """Settings of the stream in which the delayed records of such a one wait: one bucket, whose disk comes back as soon as
        they have come. What waits is on disk before its receipt, unless all of the stream is in memory."""
        fitting = {"keep_seconds": 0.0, "keep_bytes": 0, "segment_bytes": _LATER_SEGMENT_BYTES}
        return type(self)(**fitting, **({"backend": MEMORY} if self.backend == MEMORY else {}))  # type: ignore[arg-type]

    def _check_retention(self) -> None:
        _check_optional("max_records", self.max_records, 1, 1 << 62, whole=True)
        _check_optional("max_bytes", self.max_bytes, 1, 1 << 62, whole=True)
        _check_optional("max_age", self.max_age, 0.001, 10**10, whole=False)
        _check_optional("ttl", self.ttl, 0.001, 10**10, whole=False)
        _check_flag("ttl_sliding", self.ttl_sliding)
        limited = any(limit is not None for limit in (self.max_records, self.max_bytes, self.max_age))
        if self.retention == _AS_THE_LIMITS:
            object.__setattr__(self, "retention", "limits" if limited else "settled")
        _check_choice("retention", self.retention, RETENTIONS)
        if limited != (self.retention == "limits"):
            raise InvalidSetting(
                f"retention={self.retention!r} "
                + (
                    "has no limits: leave max_records, max_bytes and max_age out"
                    if limited
                    else "needs max_records, max_bytes or max_age"
                )
            )
        if self.ttl_sliding and self.ttl is None:
            raise InvalidSetting("ttl_sliding=True renews a ttl, and there is none: give ttl, in seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkSettings(_Settings):
    """Settings of a sink.

    Attributes:
        start: where it began, as `dq.model.start` has it; default "oldest". It counts only while the sink is new.
        ack_grace: seconds without a sign of life after which a lease ends; default 20.
        max_attempts: deliveries of one record before it is dead-lettered; default 5.
        ordered: one consumer at a time for each bucket, and a record that is retried holds back those behind it; default False.
        no_ack: a record is settled when it is handed out, so that each is delivered at most once; default False.
        topic: only records with this topic; the others are settled unseen. Default None: all.
        pattern: only records in whose topic this regular expression is found (`re.search`; no topic is ""). Default None: all.
    """

    FREE: ClassVar[frozenset[str]] = frozenset({"start"})

    start: str = "oldest"
    ack_grace: float = 20.0
    max_attempts: int = 5
    ordered: bool = False
    no_ack: bool = False
    topic: str | None = None
    pattern: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.start, str):
            raise InvalidSetting(f"start is kept as a text, not as {shown(self.start)}")
        parse_start(self.start)
        _check_number("ack_grace", self.ack_grace, 0.05, 7 * 86_400, whole=False)
        _check_number("max_attempts", self.max_attempts, 1, 1_000_000, whole=True)
        _check_flag("ordered", self.ordered)
        _check_flag("no_ack", self.no_ack)
        if self.ordered and self.no_ack:
            raise InvalidSetting("ordered=True waits for acks, and no_ack=True has none: choose one of them")
        if self.topic is not None and self.pattern is not None:
            raise InvalidSetting("a sink has a topic or a pattern, not both")
        if self.topic is not None:
            check_name("topic", self.topic)
        if self.pattern is not None:
            check_pattern(self.pattern)


def check_pattern(pattern: object) -> re.Pattern[str]:
    """The regular expression of a text.

    Raises:
        InvalidSetting: it is none; the message says why.
    """
    if not isinstance(pattern, str) or len(pattern) > PATTERN_CHARS_MAX:
        raise InvalidSetting(
            f"a pattern is a regular expression of at most {PATTERN_CHARS_MAX} characters, not {shown(pattern)}"
        )
    try:
        return re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise InvalidSetting(f"the pattern {shown(pattern)} is no regular expression: {error}") from error

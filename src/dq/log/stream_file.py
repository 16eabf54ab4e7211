"""A stream's own file: what it is, what it was made with, and where it stood when its last epochs began."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from dq.log.files import Files
from dq.log.format import FORMAT, Malformed, seal, want, want_count
from dq.log.layout import Layout
from dq.log.sealed import blamed, read_sealed, settings_of
from dq.model.epoch import EpochStart, later_starts
from dq.model.settings import StreamSettings
from dq.model.shown import shown


@dataclass(frozen=True, slots=True)
class StreamDescription:
    """What `stream.json` says. `made`: when the stream was made, in seconds since 1970; None: by an older version of dq.
    `once`: whether a record with a key for `once` ever came to it: what it keeps is looked through for such keys."""

    name: str
    uuid: str
    epoch: int
    settings: StreamSettings
    starts: tuple[EpochStart, ...] = ()
    made: float | None = None
    once: bool = False

    def encode(self) -> bytes:
        """One JSON line, sealed as the headers of a log are."""
        fields: dict[str, Any] = {"format": FORMAT, "name": self.name, "uuid": self.uuid, "epoch": self.epoch}
        if self.made is not None:
            fields["made"] = round(self.made, 3)
        if self.once:
            fields["once"] = True
        fields |= {"starts": [tuple(start) for start in self.starts], "settings": self.settings.to_dict()}
        return seal(orjson.dumps(fields)[:-1])[0]

    def next_epoch(self, ends: Sequence[int], *, accepted: bool = False) -> StreamDescription:
        """The same stream, an epoch later, that begins where its buckets end now."""
        start = EpochStart(self.epoch + 1, tuple(ends), accepted)
        return replace(self, epoch=start.epoch, starts=later_starts(self.starts, start))


def read_stream(files: Files, root: Path, name: str) -> StreamDescription:
    """What is kept of a stream; for any process.

    Raises:
        FileNotFoundError: no such stream. Damaged, NewerFormat, LogError: its file cannot be used.
    """
    path = Layout(root).stream_file(name)
    with blamed(path, "restore it from a backup"):
        fields = read_sealed(files, path)
        described, uuid, epoch = want(fields, "name", str), want(fields, "uuid", str), want_count(fields, "epoch")
        if described != name:
            raise Malformed(f"it describes the stream {described!r:.200}")
        settings = settings_of(StreamSettings, want(fields, "settings", dict))
        starts, made = _starts(fields.get("starts", []), settings.bucket_count), fields.get("made")
        if made is not None:
            want(fields, "made", float)
        return StreamDescription(name, uuid, epoch, settings, starts, made, fields.get("once") is True)


def _starts(values: Any, buckets: int) -> tuple[EpochStart, ...]:
    with contextlib.suppress(TypeError, ValueError):
        starts = tuple(EpochStart(epoch, tuple(ends), accepted) for epoch, ends, accepted in values)
        if type(values) is list and all(_is_start(start, buckets) for start in starts):
            return starts
    raise Malformed(f"its starts are {shown(values)}")


def _is_start(start: EpochStart, buckets: int) -> bool:
    numbers = (start.epoch, *start.ends)
    return len(start.ends) == buckets and type(start.accepted) is bool and all(type(n) is int and n >= 0 for n in numbers)

"""What one broker tells the other, and clients, of a stream that it opened."""

from __future__ import annotations

from typing import Any

from dq.errors import InvalidSetting, UnknownStream
from dq.log.backend import End
from dq.log.catalog import Catalog, OpenStream
from dq.log.fetched import cannot_read
from dq.log.stream_file import StreamDescription
from dq.model.epoch import EpochStart
from dq.model.names import later_stream, near_names
from dq.model.settings import BY_CLASS, StreamSettings


def describe(stream: OpenStream, *, removed: bool = True) -> dict[str, Any]:
    """The stream, where each bucket begins and ends now, and what was taken out in between: [bucket, first, stop] each.

    Args:
        removed: False leaves the last of these out, which may be many, for those who do not read.
    """
    return {
        "stream": stream.name,
        "uuid": stream.uuid,
        "epoch": stream.epoch,
        "starts": [tuple(start) for start in stream.starts],
        "settings": stream.settings.to_dict(),
        "firsts": stream.firsts(),
        "removed": stream.gone.listed() if removed else [],
        "ends": [[end.offset, end.segment, end.position] for end in (writer.end for writer in stream.writers)],
    }


def figures(stream: OpenStream) -> dict[str, Any]:
    """What there is of a stream, in numbers."""
    parts, gone, firsts = [writer.stats() for writer in stream.writers], stream.gone, stream.firsts()
    places = [writer.end for writer in stream.writers]
    taken = sum(gone.count(bucket, first) for bucket, first in enumerate(firsts)) if gone.ranges else 0
    limited = stream.settings.retention == "limits"
    return {
        "settings": stream.settings.to_dict(),
        "records": sum(part.end_offset for part in parts) - sum(firsts) - taken,
        "bytes": sum(part.bytes for part in parts),
        "segments": sum(part.segments for part in parts),
        "firsts": firsts,
        "ends": [part.end_offset for part in parts],
        "places": [[place.segment, place.position] for place in places],
        "trimmed": sum(firsts) if limited else gone.trimmed,
        "removed": gone.taken,
        "synced": [writer.synced for writer in stream.writers],
        "unsynced": sum(writer.unsynced for writer in stream.writers),
    }


def undescribe(opened: dict[str, Any]) -> tuple[StreamDescription, list[int], list[End]]:
    """What `describe` said: the stream, and by bucket its first offset and its end."""
    starts = tuple(EpochStart(epoch, tuple(ends), accepted) for epoch, ends, accepted in opened["starts"])
    settings = StreamSettings.from_dict(opened["settings"])
    found = StreamDescription(opened["stream"], opened["uuid"], opened["epoch"], settings, starts)
    return found, opened["firsts"], [End(*end) for end in opened["ends"]]


def check_pushable(opened: list[dict[str, Any]]) -> None:
    """Raises InvalidSetting for streams whose records the consumer broker cannot read: no sink can be over them."""
    for each in opened:
        if each["settings"]["durability"] == BY_CLASS:
            raise InvalidSetting(cannot_read(each["settings"]["backend"]))


def unknown_stream(name: str, known: dict[str, OpenStream]) -> UnknownStream:
    """The error for a stream that does not exist."""
    hint = near_names(name, known, "streams")
    return UnknownStream(f"there is no stream {name!r}: {hint} A Publisher makes a missing stream unless create=False")


def check_later(catalog: Catalog, name: str, uuid: str | None) -> None:
    """Whether records that waited for a stream in the one of this `uuid` may come to it; None: they did not wait.

    Raises:
        UnknownStream: that one was destroyed, and the stream with it. What has its name now is another one.
    """
    waited = later_stream(name)
    known = catalog.streams.get(waited)
    if uuid is not None and waited not in catalog.errors and (known is None or known.uuid != uuid):
        raise UnknownStream(f"stream {waited!r} was destroyed, and its records with it")

"""What one broker tells the other, and clients, of a stream that it opened."""

from __future__ import annotations

from typing import Any

from dq.errors import InvalidSetting
from dq.log.backend import End
from dq.log.catalog import OpenStream
from dq.log.fetched import cannot_read
from dq.log.stream_file import StreamDescription
from dq.model.epoch import EpochStart
from dq.model.settings import BY_CLASS, StreamSettings


def describe(stream: OpenStream) -> dict[str, Any]:
    """The stream, and where each bucket begins and ends now."""
    return {
        "stream": stream.name,
        "uuid": stream.uuid,
        "epoch": stream.epoch,
        "starts": [tuple(start) for start in stream.starts],
        "settings": stream.settings.to_dict(),
        "firsts": [writer.stats().first_offset for writer in stream.writers],
        "ends": [[end.offset, end.segment, end.position] for end in (writer.end for writer in stream.writers)],
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

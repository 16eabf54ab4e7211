"""What a user named: the sink or the stream that is meant, or what there is of like names."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Literal

import click

from dq.client.broker import Broker
from dq.client.sink import Sink
from dq.client.stream import Stream
from dq.errors import UnknownSink, UnknownStream
from dq.model.names import near_names


def sink_of(broker: Broker, name: str) -> Sink:
    """A sink that is there. Raises UnknownSink."""
    known = broker.sinks()
    if name not in known:
        raise UnknownSink(f"there is no sink {name!r}: {near_names(name, known, 'sinks')}")
    return Sink(broker, name)


def stream_of(broker: Broker, name: str) -> Stream:
    """A stream that is there. Raises UnknownStream."""
    known = broker.streams()
    if name not in known:
        raise UnknownStream(f"there is no stream {name!r}: {near_names(name, known, 'streams')}")
    return broker.stream(name)


def on_disk(root: Path, kind: Literal["sinks", "streams"]) -> list[str]:
    """The sinks or the streams of a data directory, sorted, with or without a broker. Raises OSError: it cannot be read."""
    try:
        with os.scandir(root / kind) as entries:
            found = [entry.name for entry in entries if entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(name for name in found if not name.startswith(".") and ":" not in name)


def sink_or_stream(
    sinks: Collection[str], streams: Collection[str], name: str | None, sink: str | None, stream: str | None
) -> tuple[str | None, str | None]:
    """Which of both a name is, where the other may have been said by its option.

    Args:
        sinks, streams: those that there are.

    Returns:
        (sink, stream), None for what was not named.

    Raises:
        click.UsageError: it is both, or all three were said. UnknownStream, UnknownSink: there is none.
    """
    if name is not None:
        if sink is not None and stream is not None:
            raise click.UsageError(f"{name!r} beside both --sink and --stream: leave one of the three out")
        if stream is not None:
            sink = name
        elif sink is not None:
            stream = name
        elif name in sinks and name in streams:
            raise click.UsageError(f"there is a sink {name!r} and a stream {name!r}: say --sink {name} or --stream {name}")
        elif name in sinks:
            sink = name
        elif name in streams:
            stream = name
        else:
            near = near_names(name, {*sinks, *streams}, "sinks and streams")
            raise UnknownStream(f"there is no sink and no stream {name!r}: {near}")
    if sink is not None and sink not in sinks:
        raise UnknownSink(f"there is no sink {sink!r}: {near_names(sink, sinks, 'sinks')}")
    if stream is not None and stream not in streams:
        raise UnknownStream(f"there is no stream {stream!r}: {near_names(stream, streams, 'streams')}")
    return sink, stream

"""The report from dq's logs: of the sinks first, then of the streams, so that nothing is settled that was not sent yet."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from dq.app.report import Report, ReportLine, Wanted
from dq.app.tally import Fates, Tally
from dq.errors import LogError
from dq.log.layout import Layout
from dq.log.sink_file import read_sink
from dq.log.stream_file import read_stream
from dq.mend.look import LookingFiles, look_at_bucket, look_at_sink

T = TypeVar("T")
_TRIES = 3


def read_report(root: Path, wanted: Wanted) -> Report:
    """What became of all that was sent to some handlers, from the logs of a data directory. A broker may run on it.

    Raises:
        Damaged, NewerFormat, LogError: a log cannot be read.
    """
    files = LookingFiles()
    tallies = {sink: _again(_tally, files, root, sink) for sink in dict.fromkeys(sink for sink, _ in wanted.values())}
    names = dict.fromkeys(stream for _, streams in wanted.values() for stream in streams)
    places = {stream: _again(_ends, files, root, stream, tallies) for stream in names}
    lines = []
    for handler, (sink, streams) in wanted.items():
        for stream in streams:
            ends, firsts = places[stream]
            fates: Fates = tallies[sink].fates(stream, ends, firsts)
            lines.append(ReportLine(handler=handler, sink=sink, stream=stream, **fates._asdict()))
    return Report(tuple(lines))


def _again(read: Callable[..., T], *arguments: Any) -> T:
    """Under a running broker a segment may be deleted while it is read: then it is looked at once more."""
    for _ in range(_TRIES - 1):
        with contextlib.suppress(LogError, FileNotFoundError):
            return read(*arguments)
    return read(*arguments)


def _tally(files: LookingFiles, root: Path, sink: str) -> Tally:
    if not Layout(root).sink(sink).is_dir() or read_sink(files, root, sink) is None:
        return Tally([])
    return Tally(look_at_sink(files, root, sink)[1].notes)


def _ends(files: LookingFiles, root: Path, stream: str, tallies: dict[str, Tally]) -> tuple[dict[int, int], dict[int, int]]:
    """Where the log of each bucket ends, and where it begins."""
    try:
        found = read_stream(files, root, stream)
    except FileNotFoundError:
        return {}, {}
    if found.settings.backend != "json":  # only its broker can read it: as far as the sinks were given of it
        given: dict[int, int] = {}
        for tally in tallies.values():
            for (name, bucket), ledger in tally.book.ledgers.items():
                if name == stream:
                    given[bucket] = max(given.get(bucket, 0), ledger.next)
        return given, {}
    ends, firsts = {}, {}
    for bucket in range(found.settings.bucket_count):
        recovered = look_at_bucket(files, root, found, bucket)
        ends[bucket] = recovered.end.offset
        firsts[bucket] = next(iter(recovered.sizes), recovered.end.offset)
    return ends, firsts

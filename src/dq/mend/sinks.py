"""The sinks of a data directory as their logs have them, whether a broker serves it or not: what each has settled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dq.core.book import Book
from dq.core.later import Later
from dq.core.ledger import Ledger
from dq.core.ranges import Range
from dq.core.replay import replay
from dq.errors import Damaged, LogError
from dq.log.files import Files, mapped
from dq.log.layout import LATER_LOG, Layout
from dq.log.sink_file import SinkFile, read_sink
from dq.mend.look import LookingFiles, look_at_sink
from dq.model.names import later_stream

_TRIES = 3
"""Under a running broker a segment may be deleted, or a note be half written, while it is read."""


@dataclass(frozen=True, slots=True)
class SinkOnDisk:
    """A sink.

    Attributes:
        name: of it.
        file: what it was made with.
        book: what its log says. A running broker may be some notes ahead.
    """

    name: str
    file: SinkFile
    book: Book

    def ledgers(self, stream: str) -> list[Ledger]:
        """Its places in the buckets of a stream, if it is over that."""
        if stream in self.file.detached:
            return []
        return [ledger for shard, ledger in sorted(self.book.ledgers.items()) if shard[0] == stream]


def sink_names(root: Path) -> list[str]:
    """The sinks there are. Raises LogError."""
    layout, files = Layout(root), Files()
    if not layout.sinks.is_dir():
        return []
    with mapped(layout.sinks, "list"):
        names = files.list_directory(layout.sinks)
    return sorted(name for name in names if ":" not in name and layout.sink_settings(name).is_file())


def read_sink_on_disk(root: Path, name: str) -> SinkOnDisk:
    """A sink. Raises Damaged, NewerFormat, LogError: its log cannot be used."""
    for left in reversed(range(_TRIES)):
        try:
            files = LookingFiles()
            found = read_sink(files, root, name)
            if found is None:
                raise Damaged(f"{Layout(root).sink_settings(name)} is missing: put it back from a backup")
            book = Book()
            for note in look_at_sink(files, root, name)[1].notes:
                replay(book, note)
            return SinkOnDisk(name, found, book)
        except (LogError, FileNotFoundError):
            if not left:
                raise
    raise AssertionError("the last try returns or raises")


def unsettled(ledger: Ledger, first: int, stop: int) -> Iterator[Range]:
    """What of a bucket a sink has not settled, from `first` up to `stop`, as ranges in order."""
    place = max(first, ledger.floor)
    for begin, end in ledger.settled.within(place, stop):
        if begin > place:
            yield place, begin
        place = end
    if place < stop:
        yield place, stop


def read_later(root: Path, stream: str) -> Later:
    """The delayed records of a stream: which of them have come. Raises as `read_sink_on_disk`."""
    later, log = Later(later_stream(stream)), f"{LATER_LOG}{stream}"
    if not Layout(root).later(stream).is_dir():
        return later
    for left in reversed(range(_TRIES)):
        try:
            notes = look_at_sink(LookingFiles(), root, log)[1].notes
            break
        except (LogError, FileNotFoundError):
            if not left:
                raise
    for note in notes:
        later.replay(note)
    return later

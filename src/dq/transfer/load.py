"""`Import`: publishes the records of an export: each once, however often it is begun again, and those of a key in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from contextlib import ExitStack, suppress

from dq.client.broker import Broker
from dq.client.drafts import Draft
from dq.client.publisher import Publisher
from dq.client.ways import Way, check_lane
from dq.errors import DqError, InvalidName, UnknownStream
from dq.log import system
from dq.log.layout import Layout
from dq.log.locks import hold
from dq.model.event import EventType
from dq.model.names import base_stream, later_stream, near_names
from dq.model.receipt import StoredRange
from dq.model.settings import StreamSettings
from dq.transfer.entry import BadLine, Entries, Entry
from dq.transfer.seen import Seen

_GONE_SECONDS = 10.0
_LOOK_SECONDS = 0.01


class Import:
    """One import.

    Args:
        broker: of the data directory into which it goes.
        entries: what the records are taken from; its headers say how a missing stream was made.
        create: whether missing streams are made.
        again: whether what is there already is stored once more.

    Attributes:
        imported, passed_over: how many are stored by this import, and how many were there already; by stream.
    """

    def __init__(self, broker: Broker, entries: Entries, *, create: bool = False, again: bool = False) -> None:
        self._broker, self._entries, self._create, self._again = broker, entries, create, again
        self._targets: dict[str, _Target] = {}
        self.imported: dict[str, int] = {}
        self.passed_over: dict[str, int] = {}

    def check(self, entries: Iterable[Entry]) -> int:
        """Looks at all records, and whether there is a stream for each; changes nothing. Returns how many there are.

        Raises:
            BadLine, NewerFormat: one cannot be imported. UnknownStream: there is no stream for it, and none is to be made.
        """
        known = self._broker.streams()
        settings: dict[str, StreamSettings] = {}
        count = 0
        for entry in entries:
            made = settings.get(entry.stream)
            if made is None:
                made = settings[entry.stream] = self._settings_of(entry, known)
            _check_priority(entry, made)
            count += 1
        return count

    def _settings_of(self, entry: Entry, known: Iterable[str]) -> StreamSettings:
        """Raises UnknownStream."""
        name = entry.stream
        if name in known:
            answer = self._broker.ask(EventType.OPEN, {"stream": name, "create": False, "settings": {}})
            return StreamSettings.from_dict(answer["opened"]["settings"])
        if not self._create:
            raise UnknownStream(
                f"line {entry.number}: there is no stream {name!r}; {near_names(name, known, 'streams')} "
                "Say --create to have it made as it was, or --stream for another one"
            )
        told = self._entries.streams.get(name)
        return StreamSettings() if told is None or base_stream(name) is not None else told.settings

    def run(self, entries: Iterable[Entry], *, dry: bool = False) -> None:
        """Publishes the records that are not there yet; with `dry`, only counts them. Returns once all are committed.

        Raises:
            BadLine, UnknownStream: as `check`; what was handed over before is stored. InUse: another import goes on here.
            DqError: a publisher's error.
        """
        with ExitStack() as opened:
            if not dry:
                lock, what = Layout(self._broker.root).import_lock, f"the directory {self._broker.root}"
                opened.enter_context(
                    hold(lock, 0.0, f"another import goes on: {what}", advice="wait for its end, or stop it first")
                )
            try:
                for entry in entries:
                    target = self._targets.get(entry.stream)
                    if target is None:
                        target = self._targets[entry.stream] = self._open(opened, entry, dry=dry)
                    _check_priority(entry, target.settings)
                    if not self._again and not target.seen.add(entry):
                        self.passed_over[entry.stream] = self.passed_over.get(entry.stream, 0) + 1
                    elif dry:
                        self.imported[entry.stream] = self.imported.get(entry.stream, 0) + 1
                    else:
                        self._count(entry.stream, target.take(entry))
            finally:
                self._finish()
        self._raise_first()

    def _count(self, stream: str, count: int) -> None:
        if count:
            self.imported[stream] = self.imported.get(stream, 0) + count

    def _finish(self) -> None:
        for name, target in self._targets.items():
            self._count(name, target.finish())

    def _raise_first(self) -> None:
        for target in self._targets.values():
            if target.error is not None:
                raise target.error

    def _open(self, opened: ExitStack, entry: Entry, *, dry: bool) -> _Target:
        name = entry.stream
        settings = self._settings_of(entry, self._broker.streams())
        missing = name not in self._broker.streams()
        if dry and missing:
            return _Target(settings)
        if missing:
            self._make(entry, settings)
        target = _Target(settings)
        if not self._again:
            _await_gone(self._broker, name)
            target.seen.read(self._broker.root, name)
            if base_stream(name) is None:
                target.seen.read(self._broker.root, later_stream(name))
        if not dry:
            target.publisher = opened.enter_context(Publisher(self._broker, name, create=False))
        return target

    def _make(self, entry: Entry, settings: StreamSettings) -> None:
        wish = settings.to_dict() if base_stream(entry.stream) is None else {}  # dq makes it as it makes such streams
        try:
            self._broker.ask(EventType.OPEN, {"stream": entry.stream, "create": True, "settings": wish})
        except InvalidName as error:
            raise BadLine(f"line {entry.number}: {error}; say --stream for another one") from None


class _Target:
    """A stream into which records go.

    Attributes:
        settings: of it.
        seen: what is there.
        error: the first that one of its batches ended with.
    """

    def __init__(self, settings: StreamSettings) -> None:
        self.settings, self.seen = settings, Seen()
        self.publisher: Publisher | None = None
        self.error: DqError | None = None
        self._drafts: deque[Draft] = deque()

    def take(self, entry: Entry) -> int:
        """Hands a record over; returns how many were committed meanwhile. Raises the error of a batch before it."""
        publisher, way = self.publisher, _way_of(entry)
        assert publisher is not None
        line = publisher.line_of(entry.payload, entry.key, entry.topic, entry.name, entry.headers, way)
        draft, place = publisher.begin(line, entry.key, entry.topic, way, urgent=False)
        if place:
            return 0
        self._drafts.append(draft)
        count = self._collect()
        if self.error is not None:
            raise self.error
        return count

    def _collect(self) -> int:
        """Takes in what is answered by now. A batch is not full while it is the last of its bucket."""
        count = 0
        while self._drafts and (outcome := self._drafts[0].outcome) is not None:
            self._drafts.popleft()
            if isinstance(outcome, StoredRange):
                count += outcome.count
            elif self.error is None:
                self.error = outcome
        return count

    def finish(self) -> int:
        """Waits until all is answered; returns how many were committed meanwhile."""
        if self.publisher is not None:
            with suppress(DqError):  # it stands in its batches
                self.publisher.flush()
        return self._collect()


def _check_priority(entry: Entry, settings: StreamSettings) -> None:
    if entry.priority:
        try:
            check_lane(entry.stream, entry.priority, settings.priorities)
        except DqError as error:
            raise BadLine(f"line {entry.number}: {error}") from None


def _way_of(entry: Entry) -> Way | None:
    """How it is to go; one whose time has come comes at once."""
    due = entry.due if entry.due is not None and entry.due > time.time() else None
    if due is None and not entry.priority and entry.expires is None:
        return None
    return Way(due, None, entry.priority, entry.expires)


def _await_gone(broker: Broker, stream: str) -> None:
    """Of an import that was killed records may still be on their way: waits until the broker has seen that it is gone."""
    deadline = time.monotonic() + _GONE_SECONDS
    while any(system.lives(pid) is False for pid in _publishers(broker, stream)) and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)


def _publishers(broker: Broker, stream: str) -> list[int]:
    """The pids of the publishers of a stream and of its delayed records, as the broker knows them."""
    there = broker.stats()["publisher_broker"].get("publishers", {})
    return [each["pid"] for each in there.values() if each["stream"] in (stream, later_stream(stream))]

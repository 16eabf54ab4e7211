"""`Reader`: a private cursor over streams. It reads the logs itself; the broker tells it how far they are committed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import chain
from re import Pattern
from typing import TypeVar

from dq.client.bucket_cursor import Filter, Hand, Lines, Match
from dq.client.lifetime import watch
from dq.client.place import Place, root_of
from dq.client.reader_core import ReaderCore
from dq.client.reader_session import ReaderSession
from dq.client.reader_stream import Shelf
from dq.client.wishes import bucket_chooser, reconnect_of, seconds_of, whole_of
from dq.core.matching import Matcher
from dq.errors import DqError, Forked, InvalidSetting
from dq.model.names import check_name
from dq.model.record import Record
from dq.model.start import Start, start_of

StartAt = str | datetime | timedelta
T = TypeVar("T")
_LIMIT_MAX = 1_000_000


class Reader:
    """Reads one or more streams: every reader sees every record that is kept. Safe to share between threads; a context manager.

    Iterate over it, or call `get`. Only committed records are seen. Without a running broker it reads what is on disk, and
    does not wait.

    Args:
        broker: a `BrokerManager`, what `dq.connect` returns, or the path of a data directory.
        streams: what to read; a reader makes none.
        start: where to begin: "newest" (default: after the last record there is now), "oldest", the id of a record to begin
            after (of a reader of that one bucket), a `position`, an aware datetime, or a timedelta ago.
        follow: whether an iteration waits at the end for more; default True.
        buckets: read only these; default None: all.
        rank, world_size: read only the buckets i with i % world_size == rank, so that so many readers share a stream.
        topic: only records with this topic.
        pattern: only records in whose topic this regular expression is found (`re.search`; no topic is "").
        match: only records for which this function of the `Record` is true.
        reconnect_timeout: seconds for which a broker that went away is looked for; default None: as the settings say, else 30.

    Raises:
        UnknownStream: with near names. InvalidName, InvalidSetting.
        BrokerNotRunning: nobody serves the directory, and it has no streams.
    """

    def __init__(
        self,
        broker: Place,
        *streams: str,
        start: StartAt = "newest",
        follow: bool = True,
        buckets: Sequence[int] | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        topic: str | None = None,
        pattern: str | Pattern[str] | None = None,
        match: Match | None = None,
        reconnect_timeout: float | timedelta | None = None,
    ) -> None:
        if not streams:
            raise InvalidSetting('a reader needs a stream: Reader(broker, "emails")')
        if topic is not None and pattern is not None:
            raise InvalidSetting("a reader has a topic or a pattern, not both")
        if match is not None and not callable(match):
            raise InvalidSetting(f"match is a function of a Record, not {match!r}")
        if topic is not None:
            check_name("topic", topic)
        begin = start_of(start, time.time())
        self._starts: dict[str, Start] = {check_name("stream", stream): begin for stream in streams}
        self._follows, self._match = follow, match
        root, chosen = root_of(broker), bucket_chooser(buckets, rank, world_size)
        shelf = self._shelf = Shelf(root, Filter(Matcher(topic, pattern), match), chosen)
        core = self._core = ReaderCore(shelf)
        self._session = ReaderSession(root, shelf, core, self._starts, reconnect_of(root, reconnect_timeout))
        self._lock, self._changing = self._session.lock, threading.Lock()
        self._session.begin()
        try:
            core.check(begin)
        except DqError:
            self.close()
            raise
        watch(self)

    # --- reading -----------------------------------------------------------------------------------------------------

    def get(self, limit: int = 1000, timeout: float | timedelta | None = 0.0) -> list[Record]:
        """The next records, of all buckets in turn.

        Args:
            limit: at most so many.
            timeout: seconds to wait for the first one where there is none; 0 (default) does not wait, None waits for ever.

        Returns:
            At least one record, or none at the end.

        Raises:
            RecordsTrimmed: records were gone when it came to them; it stands behind them now.
            BrokerLost: the broker did not come back in time. BrokerNotRunning: none runs, and it was to wait.
            Damaged, LogError: a log cannot be read; the other buckets go on.
        """
        return self._take(limit, timeout, self._core.records)

    def lines(self, limit: int = 1000, timeout: float | timedelta | None = 0.0) -> list[Lines]:
        """As `get`, as the lines of JSON that stand in the log, in runs: nothing is decoded or copied."""
        return self._take(limit, timeout, self._core.lines)

    def __iter__(self) -> Iterator[Record]:
        """The records, as they come; with `follow=False` up to the end there is when it gets there. Raises as `get`."""
        self._session.check()
        return chain.from_iterable(self._hands())  # the loop over records in C: a generator costs each a tenth of its way

    def _hands(self) -> Iterator[Iterator[Record]]:
        while not self._session.stopped:
            yield self.in_hand()
            if not self.read_ahead():
                return

    def in_hand(self) -> Iterator[Record]:
        """The records of an iteration that need not be waited for."""
        hand = self._core.hand
        if hand is None:
            return iter(())
        return hand.records if self._match is None else self._matched(hand)

    def _matched(self, hand: Hand) -> Iterator[Record]:
        try:
            yield from hand.records
        except GeneratorExit:
            raise
        except Exception:
            with self._lock:  # the user's own function raised: its record is the next one again
                self._core.put_back(1)
            raise

    def read_ahead(self) -> bool:
        """Waits for records and takes some in hand; False where an iteration is to end."""
        self._session.keep_up()
        with self._lock:  # the usual case, once for 150 records: there are some
            self._session.check()
            if self._core.next_hand():
                return True
        return bool(self._take(1, None if self._follows else 0.0, lambda _: self._core.next_hand()))

    def give_back(self, records: list[Record]) -> None:
        """Takes back what `get` has returned to somebody who was cancelled: it comes again."""
        with self._lock:
            self._core.give_back(records)

    def refresh(self) -> None:
        """Finds out what is committed now; `get` asks only where it knows of nothing more."""
        self._session.refresh()

    def wake(self) -> None:
        """Has the threads that wait look whether they are to go on waiting."""
        self._session.wake()

    def _take(self, limit: int, timeout: float | timedelta | None, take: Callable[[int], list[T]]) -> list[T]:
        limit = whole_of("limit", limit, 1, _LIMIT_MAX)
        seconds = None if timeout is None else seconds_of("timeout", timeout)
        deadline = None if seconds is None else time.monotonic() + seconds
        session, core = self._session, self._core
        session.check()
        session.keep_up()
        refreshed = False
        while True:
            with self._lock:
                session.check()
                found = take(limit)
                ready = core.ready
            if found:
                return found
            if session.stopped or (deadline is not None and seconds and time.monotonic() >= deadline):
                return []
            if ready:  # it passed over what is not wanted, and there is more; or what was known is not there any more
                session.keep_up()
                continue
            if seconds != 0:
                session.wait(deadline)
            elif refreshed:
                return []
            else:
                session.refresh()
                refreshed = True

    # --- places ------------------------------------------------------------------------------------------------------

    @property
    def position(self) -> str:
        """Where it stands, after what was handed out: a text that `start=` and `seek` take, also in another process."""
        with self._lock:
            return self._core.position()

    @property
    def missed(self) -> int:
        """Records that were gone before it came to them."""
        return self._core.missed

    @property
    def lost(self) -> int:
        """Records that it had read, and that streams lost since, as their durability allows."""
        return self._core.lost

    @property
    def streams(self) -> tuple[str, ...]:
        """What it reads."""
        return tuple(self._starts)

    def seek(self, start: StartAt) -> None:
        """Goes on at another place; what it takes is as `start=` of the reader. Raises InvalidSetting."""
        place = start_of(start, time.time())
        self._session.check()
        if not place.offsets and place.text != "oldest":
            self._session.refresh()  # "newest" is what is the newest now
        with self._lock:
            self._core.seek(place)

    def reset(self) -> None:
        """Goes back to the place where it began."""
        self._session.check()
        with self._lock:
            self._core.reset()

    def add_stream(self, name: str, start: StartAt = "newest") -> None:
        """Reads one more stream from now on; one that it reads already goes on as it is.

        Raises:
            UnknownStream, InvalidName, InvalidSetting. BrokerLost: the broker did not answer.
        """
        begin = start_of(start, time.time())
        check_name("stream", name)
        self._session.check()
        with self._changing:
            if name in self._starts:
                return
            self._starts[name] = begin
            try:
                self._session.added(name)
            except BaseException:
                self._starts.pop(name, None)
                self._session.dropped()
                raise

    def remove_stream(self, name: str) -> None:
        """Reads a stream no more; one that it does not read is no error."""
        self._session.check()
        with self._changing, self._lock:
            if self._starts.pop(name, None) is not None and name in self._core.streams:
                self._core.forget(name)
                self._session.dropped()

    # --- the end -----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Ends iterations, and waits no more: `get` gives what there is. Safe from other threads and signal handlers."""
        self._session.stop()
        hand = self._core.hand
        if hand is not None:
            hand.halt()

    def close(self) -> None:
        """Leaves; safe twice."""
        if self._session.close():
            with self._lock:
                self._core.close()
            self._shelf.close()

    def after_fork(self, refusal: Forked) -> None:
        """In a forked child: this object is the parent's."""
        self._session.after_fork(refusal)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Reader {self._session.reader_id} of {', '.join(self._starts)}>"

"""Effectively once: what a handler did is committed together with the key of its task, so that it is not done a second time.

A task comes again when its consumer dies between the effect and the ack. If the effect is in a database, the way out is to
commit a key of the task in the same transaction: either both are there, or neither. `SqliteOnce` does that in a SQLite database
of the user's, `FileOnce` in a small file of its own. What else a handler did (a mail, a request to another system) cannot be
taken back with the transaction: for that, send the task's key along, so that the other side can do the same.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import os
import re
import sqlite3
import threading
import time
import typing
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Protocol

import orjson

from dq.app.config import check_seconds
from dq.app.engine import Delivery
from dq.app.outcomes import ACK, Ack, DeadLetter, Drop, Release, Retry, Verdict, verdict_of
from dq.errors import AlreadySettled, InvalidSetting
from dq.model.shown import shown
from dq.model.told import about

log = logging.getLogger("dq")
KeyOf = Callable[[Delivery], str]
KEEP_SECONDS: Final = 7 * 86_400.0
_TABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_CLEAN_EVERY = 1_000
_CURRENT = threading.local()
_VERBS: Final[dict[str, Callable[..., Verdict]]] = {
    "ack": lambda: ACK,
    "drop": Drop,
    "retry": lambda after=None, error="": Retry(after, error),
    "dead_letter": lambda reason: DeadLetter(str(reason)),
    "release": Release,
}


class OnceStore(Protocol):
    """Where the keys of done tasks are kept."""

    argument: type
    """What a handler's argument is annotated with to get the transaction."""

    def key_of(self, delivery: Delivery) -> str:
        """The key of a task."""

    def transaction(self, key: str) -> contextlib.AbstractContextManager[Transaction]:
        """Begins a transaction with that key in it; without `commit` it is rolled back at the end."""


class Transaction(Protocol):
    """One task's transaction.

    Attributes:
        seen: the key was there already: the task was done before.
        value: what the handler gets.
    """

    seen: bool
    value: Any

    def commit(self) -> None:
        """Commits the effect and the key."""


def default_key(delivery: Delivery) -> str:
    """Sink, id, and the time of publishing: a stream that is made anew begins its ids anew."""
    return f"{delivery.sink} {delivery.id} {delivery.created_at.timestamp():.6f}"


class HeldTask:
    """A task whose verbs wait for the commit: an ack that went before it could lose the effect. Else as the task."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self.verdict: Verdict | None = None

    def __getattr__(self, name: str) -> Any:
        make = _VERBS.get(name)
        if make is None:
            return getattr(self._delivery, name)

        def verb(*arguments: Any, **named: Any) -> None:
            if self.verdict is not None:
                raise AlreadySettled(f"task {self._delivery.id} cannot take {name}: it was settled already")
            named.pop("wait", None)
            self.verdict = make(*arguments, **named)

        return verb


def within(store: OnceStore, call: Callable[[Any], Any]) -> Callable[[Delivery], Verdict]:
    """A handler's call, in a transaction of the store: committed where the handler has done its work (or dropped the task)."""

    def run(delivery: Delivery) -> Verdict:
        with store.transaction(store.key_of(delivery)) as transaction:
            if transaction.seen:
                log.info("task %s was done before, and is not done again", delivery.id, extra=about(task=delivery.id))
                return ACK
            task = HeldTask(delivery)
            _CURRENT.value = transaction.value
            try:
                result = call(task)
            finally:
                _CURRENT.value = None
            verdict = task.verdict or verdict_of(result)
            if isinstance(verdict, (Ack, Drop)):
                transaction.commit()
            return verdict

    return run


def with_store(function: Callable[..., Any], store: OnceStore, scope: Mapping[str, Any] | None) -> Callable[..., Any]:
    """The function without the argument that is annotated as the store's: that is given to it from the transaction.

    Raises:
        InvalidSetting: the store is none, or the function is async.
    """
    if not all(hasattr(store, name) for name in ("argument", "key_of", "transaction")):
        raise InvalidSetting(f"once= is SqliteOnce(path or connection) or FileOnce(path), not {store!r}")
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
        raise InvalidSetting(
            "once= is for functions that are not async: a transaction is one thread's, from its begin to its end"
        )
    callee = function if inspect.isroutine(function) else type(function).__call__
    try:
        hints = typing.get_type_hints(callee, localns=dict(scope or {}))
    except NameError:
        return function  # the handler says what is wrong
    signature = inspect.signature(function)
    given = [name for name in signature.parameters if hints.get(name) is store.argument]
    if not given:
        return function
    names = [name for name in signature.parameters if name not in given]

    @functools.wraps(function)
    def without(*arguments: Any) -> Any:
        named = dict(zip(names[1:], arguments[1:], strict=False))
        return function(*arguments[:1], **named, **dict.fromkeys(given, _CURRENT.value))

    kept = [parameter for name, parameter in signature.parameters.items() if name not in given]
    without.__signature__ = signature.replace(parameters=kept)  # type: ignore[attr-defined]
    without.__annotations__ = {name: hint for name, hint in hints.items() if name not in given}
    return without


class _SqliteTransaction:
    """As `Transaction`."""

    def __init__(self, store: SqliteOnce, connection: sqlite3.Connection, *, seen: bool) -> None:
        self.seen, self.value = seen, store.value_of(connection)
        self._store, self._connection = store, connection

    def commit(self) -> None:
        self._store.commit(self._connection)


class SqliteOnce:
    """Keeps the keys in a table of a SQLite database, and has the handler work in the same transaction.

    The handler gets the connection by an argument annotated `sqlite3.Connection`; what it writes there is committed together
    with the key, and rolled back when it raises or asks for another try. It commits nothing itself. Transactions write one at a
    time, as always with SQLite: a handler should do in them what belongs there, and no more.

    Args:
        database: its path, or a connection that was opened with `check_same_thread=False`. By a path, each thread has a
            connection of its own, with `synchronous=FULL`: a commit is on disk before the ack. Of a connection that is given,
            the owner sees to that.
        key: a function of the task that names what is to be done once; default: its sink, its record, and when that was
            published.
        table: where the keys are kept; it is made.
        keep: seconds or timedelta for which a key is kept; default 7 days. It is needed as long as the task may come again.
        timeout: seconds to wait for another writer; default 30. Then the task is tried again later.

    Raises:
        InvalidSetting: something of it cannot be.
    """

    argument: type = sqlite3.Connection

    def __init__(
        self,
        database: str | os.PathLike[str] | sqlite3.Connection,
        key: KeyOf | None = None,
        *,
        table: str = "dq_once",
        keep: float | timedelta = KEEP_SECONDS,
        timeout: float = 30.0,
    ) -> None:
        if key is not None and not callable(key):
            raise InvalidSetting(f"key is a function of the task, not {key!r}")
        if not _TABLE.fullmatch(table):
            raise InvalidSetting(f"{table!r} cannot name a table: use letters, digits and _")
        self._given = database if isinstance(database, sqlite3.Connection) else None
        if self._given is None and str(database) == ":memory:":
            raise InvalidSetting("a database in memory is gone with its process: give the path of a file, or a connection")
        self._path = "" if isinstance(database, sqlite3.Connection) else str(Path(database).absolute())
        self._key, self._table = key or default_key, table
        self._keep = keep.total_seconds() if isinstance(keep, timedelta) else keep
        self._timeout = check_seconds("timeout", timeout)
        self._own = threading.local()
        self._lock = threading.RLock()
        self._begun = 0

    def key_of(self, delivery: Delivery) -> str:
        """The key of a task. Raises TypeError where the user's function gives none."""
        key = self._key(delivery)
        if not isinstance(key, str) or not key:
            raise TypeError(f"the key of a task is a text, not {shown(key)}")
        return key

    def value_of(self, connection: sqlite3.Connection) -> Any:
        """What the handler gets."""
        return connection

    def commit(self, connection: sqlite3.Connection) -> None:
        """Commits; the handler may have done so, and then the key is there with its effect."""
        if connection.in_transaction:
            connection.execute("COMMIT")

    @contextlib.contextmanager
    def transaction(self, key: str) -> Iterator[_SqliteTransaction]:
        """As `OnceStore.transaction`.

        Raises:
            sqlite3.Error: the database does not take it now; nothing was done.
        """
        with self._lock if self._given is not None else contextlib.nullcontext():
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield _SqliteTransaction(self, connection, seen=self._note(connection, key))
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def _note(self, connection: sqlite3.Connection, key: str) -> bool:
        """Puts the key in before the handler works, so that nothing is committed without it. Returns whether it was there."""
        self._begun += 1
        now = time.time()
        if self._begun % _CLEAN_EVERY == 0:
            connection.execute(f"DELETE FROM {self._table} WHERE at < ?", (now - self._keep,))  # noqa: S608
        done = connection.execute(f"INSERT OR IGNORE INTO {self._table} VALUES (?, ?)", (key, now))  # noqa: S608
        return done.rowcount == 0

    def _connection(self) -> sqlite3.Connection:
        own = getattr(self._own, "value", None)
        if own is not None and own[0] == os.getpid():
            connection: sqlite3.Connection = own[1]
            return connection
        connection = self._given if self._given is not None else self._open()
        self.make_tables(connection)
        self._own.value = (os.getpid(), connection)
        return connection

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=self._timeout, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    def make_tables(self, connection: sqlite3.Connection) -> None:
        """Makes what is missing."""
        connection.execute(f"CREATE TABLE IF NOT EXISTS {self._table} (key TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID")


class Values(MutableMapping[str, Any]):
    """Values of JSON by name, in a `FileOnce`: what is set here is committed with the key of the task, or not at all."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __getitem__(self, name: str) -> Any:
        row = self._connection.execute("SELECT value FROM dq_values WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise KeyError(name)
        return orjson.loads(row[0])

    def __setitem__(self, name: str, value: Any) -> None:
        row = (name, orjson.dumps(value).decode())
        self._connection.execute("INSERT OR REPLACE INTO dq_values VALUES (?, ?)", row)

    def __delitem__(self, name: str) -> None:
        if not self._connection.execute("DELETE FROM dq_values WHERE name = ?", (name,)).rowcount:
            raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        rows = self._connection.execute("SELECT name FROM dq_values ORDER BY name").fetchall()
        return iter([name for (name,) in rows])

    def __len__(self) -> int:
        count: int = self._connection.execute("SELECT COUNT(*) FROM dq_values").fetchone()[0]
        return count


class FileOnce(SqliteOnce):
    """Keeps the keys in a small file of its own (SQLite keeps it), for handlers whose effect is not in a database.

    An argument annotated `Values` gets a mapping of JSON values, kept in the same file: what the handler sets there is
    committed together with the key. What it does elsewhere is not: a crash between that and the commit has it done again.

    Args:
        path: of the file.
        key, keep, timeout: as of `SqliteOnce`.
    """

    argument: type = Values

    def __init__(
        self,
        path: str | os.PathLike[str],
        key: KeyOf | None = None,
        *,
        keep: float | timedelta = KEEP_SECONDS,
        timeout: float = 30.0,
    ) -> None:
        super().__init__(path, key, keep=keep, timeout=timeout)

    def value_of(self, connection: sqlite3.Connection) -> Any:
        """The values."""
        return Values(connection)

    def make_tables(self, connection: sqlite3.Connection) -> None:
        """Makes what is missing."""
        super().make_tables(connection)
        connection.execute("CREATE TABLE IF NOT EXISTS dq_values (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID")

    def values(self) -> dict[str, Any]:
        """All values as they are committed now."""
        return dict(Values(self._connection()))

"""Every error that dq raises, as one tree.

::

    DqError
    ├── BrokerError
    │   ├── BrokerNotRunning      nobody serves this directory
    │   ├── BrokerRunning         somebody else serves this directory already
    │   ├── BrokerLost            the broker went away and did not come back in time
    │   └── InUse                 another process holds a lock that is needed
    ├── UsageError
    │   ├── InvalidName           a stream, sink or topic name that cannot be a file name     (ValueError)
    │   ├── InvalidPayload        a payload that JSON cannot carry                            (TypeError)
    │   ├── InvalidSetting        a setting of the wrong type, unit or size                   (ValueError)
    │   ├── MissingColumn         a record of a queue without the column that chooses its bucket  (ValueError)
    │   ├── SettingsMismatch      a stream or sink exists with other settings
    │   ├── UnknownStream         no stream of that name
    │   ├── UnknownSink           no sink of that name
    │   ├── UnknownRecord         no record of that id
    │   ├── NotImportable         a handler that a worker process cannot import
    │   ├── AlreadySettled        a task was settled twice
    │   ├── Closed                use after close, or after a fork
    │   └── Forked                a client object was used in a forked child                  (Closed)
    ├── PublishError              carries `.receipts` of what was committed before it
    │   ├── RecordTooLarge        one record is over the limit
    │   ├── QueueFull             too much waits already
    │   ├── OnceFull              as many keys of `publish(once=)` are remembered as may be
    │   ├── DiskFull              no room; nothing of the batch was stored
    │   ├── StreamReadOnly        the stream takes no records until it is mended
    │   ├── PublishTimeout        no answer in time; outcome unknown, `.future` still ends    (TimeoutError)
    │   ├── SequenceError         a batch that does not follow the last one of its publisher
    │   └── OutcomeUnknown        the broker cannot say whether the batch was stored
    ├── LogError
    │   ├── Damaged               the bytes on disk are not what was written
    │   ├── NewerFormat           written by a newer version of dq
    │   ├── SyncFailed            the disk did not confirm a flush
    │   └── BackendFailed         a storage backend of the user's own failed or cannot be imported
    ├── HandlerError              what ended a task's handler, other than its own exception
    │   ├── HandlerTimeout        it ran longer than its timeout                              (TimeoutError)
    │   └── WorkerDied            its worker process died at the task
    ├── BroadcastFailed           not all listeners took a signal; carries `.result`
    ├── ListenerDropped           the broker tells a listener nothing more: it failed, or did not read
    ├── RecordsTrimmed            the records asked for are gone
    └── ProtocolError             a peer broke the protocol; its connection is closed

Every message says what happened and what to do about it. Foreign exceptions are mapped where they are met, with `from`.
"""

from __future__ import annotations

from typing import Any


class DqError(Exception):
    """Root of all errors of dq.

    Attributes:
        receipts: of an error that ended `publish_many`: what was committed before it (`Receipts`); else None.
    """

    receipts: Any = None


def by_name(name: str, message: str, otherwise: type[DqError] = DqError) -> DqError:
    """The error that another process told of by its name; `otherwise` where the tree has none of that name."""
    kind = globals().get(name)
    return (kind if isinstance(kind, type) and issubclass(kind, DqError) else otherwise)(message)


class BrokerError(DqError):
    """The broker cannot be reached, started or used."""


class BrokerNotRunning(BrokerError):
    """Raised when no manager serves the directory. Start one: `BrokerManager(path)` or `python -m dq.main serve`."""


class BrokerRunning(BrokerError):
    """Raised when a second manager is started on a directory. The message names the pid of the first one."""


class BrokerLost(BrokerError):
    """Raised when the broker was lost and did not come back within `reconnect_timeout`."""


class InUse(BrokerError):
    """Raised when another process still holds a lock file after the time it was waited for."""


class UsageError(DqError):
    """A call that cannot be carried out as it was made; nothing was done."""


class InvalidName(UsageError, ValueError):
    """Raised when a name is not 1 to 128 of `A-Z a-z 0-9 . _ -`, beginning with a letter, a digit or `_`."""


class InvalidPayload(UsageError, TypeError):
    """Raised before anything is sent when a payload, key or header cannot be written as JSON."""


class InvalidSetting(UsageError, ValueError):
    """Raised when a setting is of the wrong type or outside its limits. The message names it."""


class MissingColumn(UsageError, ValueError):
    """Raised when a record of a queue lacks the column by which its bucket is chosen. The message names it."""


class SettingsMismatch(UsageError):
    """Raised when a stream or a sink exists with other settings than those asked for. The message shows both."""


class UnknownStream(UsageError):
    """Raised when a stream does not exist and is not to be made. The message has near names."""


class UnknownSink(UsageError):
    """Raised when a sink does not exist, or was destroyed, and is not to be made."""


class UnknownRecord(UsageError):
    """Raised when there is no record, or no dead letter, of an id."""


class NotImportable(UsageError):
    """Raised when a worker process cannot import the handler that it is to run. The message says why and what to do."""


class AlreadySettled(UsageError):
    """Raised when a task is settled a second time."""


class Closed(UsageError):
    """Raised when an object is used after it was closed."""


class Forked(Closed):
    """Raised when a client object is used in a forked child. Make a new one there."""


class PublishError(DqError):
    """A publish that did not end well.

    Attributes:
        future: for `PublishTimeout`, the future that still ends with the outcome.
    """

    future: Any = None


class RecordTooLarge(PublishError):
    """Raised when one record is larger than `record_bytes_max`. Put the payload in a file and publish its path."""


class QueueFull(PublishError):
    """Raised when a bounded queue has no room for what was handed in; nothing of it was stored."""


class OnceFull(PublishError):
    """Raised when a stream remembers as many keys of `publish(once=)` as it may. Not stored; the message says when to try."""


class DiskFull(PublishError):
    """Raised when the disk has no room. Nothing of the batch was stored; publishing works again once there is room."""


class StreamReadOnly(PublishError):
    """Raised when a stream cannot take records since its log is damaged or its disk fails. The message has the mend."""


class PublishTimeout(PublishError, TimeoutError):
    """Raised when no answer came in time. The outcome is unknown; `.future` still ends with it."""


class SequenceError(PublishError):
    """Raised when a batch leaves a gap after its publisher's last one, or repeats a number with other bytes. Not stored."""


class OutcomeUnknown(PublishError):
    """Raised when a batch may or may not have been stored: a failed flush, or a resend that is too old to be known."""


class LogError(DqError):
    """A log on disk that cannot be used as it is."""


class Damaged(LogError):
    """Raised when bytes of a log are not what was written. The message names file, offset and what can be done."""


class NewerFormat(LogError):
    """Raised when a log was written by a newer version of dq. Use that version; nothing is to be repaired."""


class SyncFailed(LogError):
    """Raised when the disk did not confirm a flush. It is never retried: what was not confirmed may be lost."""


class BackendFailed(LogError):
    """Raised when the class that keeps a stream for its user raised an error, was too slow, or cannot be imported.

    The message has the class's own error. The broker and all other streams go on.
    """


class HandlerError(DqError):
    """What became of a task in a handler, other than by an exception of its own. It stands in `last_error` and dead letters."""


class HandlerTimeout(HandlerError, TimeoutError):
    """A handler ran longer than its `timeout`. In a process it was killed, a coroutine was cancelled; it is tried again."""


class WorkerDied(HandlerError):
    """The worker process that worked on a task died: a crash, `os._exit`, or no memory. The task is tried again."""


class BroadcastFailed(DqError):
    """Raised when a broadcast was not taken as its mode asks for: a listener failed, or did not answer in time.

    Attributes:
        result: the `BroadcastResult`.
    """

    result: Any = None


class ListenerDropped(DqError):
    """Raised when a listener is told nothing more: it failed several times in a row, or did not read. Make a new one."""


class RecordsTrimmed(DqError):
    """Raised when records that were asked for have been trimmed.

    Attributes:
        first: the first offset that is still there.
        missed: how many records a reader did not see.
    """

    first: int = 0
    missed: int = 0


class ProtocolError(DqError):
    """Raised when a frame or an envelope is not what the protocol allows. It costs its connection alone."""

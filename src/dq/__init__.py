"""dq: a durable queue and record stream for the processes of one host, with no server to install.

The names are found when they are first asked for: a broker's process imports nothing of the clients, and starts in two
thirds of the time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dq.app.application import App
    from dq.app.config import AppConfig
    from dq.app.once import FileOnce, SqliteOnce, Values
    from dq.client.attach import connect
    from dq.client.broker import Broker
    from dq.client.consumer import Consumer
    from dq.client.dead_letters import DeadLetters, DeadRecord, Death
    from dq.client.holdings import Holding, Holdings
    from dq.client.listener import Listener
    from dq.client.manager import BrokerManager
    from dq.client.metrics import ProcessMetrics, Snapshot, StreamMetrics
    from dq.client.publisher import Publisher
    from dq.client.reader import Reader
    from dq.client.sink import Sink
    from dq.client.stats import SinkStats
    from dq.client.stream import Pinned, Stream, StreamStats, Topic
    from dq.client.task import Task
    from dq.errors import (
        AlreadySettled,
        BackendFailed,
        BroadcastFailed,
        BrokerError,
        BrokerLost,
        BrokerNotRunning,
        BrokerRunning,
        Closed,
        Damaged,
        DiskFull,
        DqError,
        Forked,
        HandlerError,
        HandlerTimeout,
        InUse,
        InvalidName,
        InvalidPayload,
        InvalidSetting,
        ListenerDropped,
        LogError,
        MissingColumn,
        NewerFormat,
        NotImportable,
        OnceFull,
        OutcomeUnknown,
        ProtocolError,
        PublishError,
        PublishTimeout,
        QueueFull,
        RecordsTrimmed,
        RecordTooLarge,
        SequenceError,
        SettingsMismatch,
        StreamReadOnly,
        SyncFailed,
        UnknownRecord,
        UnknownSink,
        UnknownStream,
        UsageError,
        WorkerDied,
    )
    from dq.log.backend import get_backend_class, list_backends, register_backend
    from dq.log.storage import BucketPlace, StorageBackend
    from dq.mend.verify import Verification, verify
    from dq.model.event import Event, EventOwner, EventType
    from dq.model.outcome import Outcome
    from dq.model.receipt import Receipt, Receipts
    from dq.model.record import Record
    from dq.model.settings import SinkSettings, StreamSettings
    from dq.model.signal import BroadcastResult, Signal
    from dq.model.task import TaskIn

_HOMES = {
    "dq.app.application": ("App",),
    "dq.app.config": ("AppConfig",),
    "dq.app.once": (
        "FileOnce",
        "SqliteOnce",
        "Values",
    ),
    "dq.client.attach": ("connect",),
    "dq.client.broker": ("Broker",),
    "dq.client.consumer": ("Consumer",),
    "dq.client.dead_letters": ("DeadLetters", "DeadRecord", "Death"),
    "dq.client.listener": ("Listener",),
    "dq.client.manager": ("BrokerManager",),
    "dq.client.metrics": ("ProcessMetrics", "Snapshot", "StreamMetrics"),
    "dq.client.publisher": ("Publisher",),
    "dq.client.reader": ("Reader",),
    "dq.client.stream": (
        "Pinned",
        "Stream",
        "StreamStats",
        "Topic",
    ),
    "dq.client.sink": ("Sink",),
    "dq.client.holdings": ("Holding", "Holdings"),
    "dq.client.stats": ("SinkStats",),
    "dq.client.task": ("Task",),
    "dq.errors": (
        "AlreadySettled",
        "BroadcastFailed",
        "BackendFailed",
        "BrokerError",
        "BrokerLost",
        "BrokerNotRunning",
        "BrokerRunning",
        "Closed",
        "Damaged",
        "DiskFull",
        "DqError",
        "Forked",
        "HandlerError",
        "HandlerTimeout",
        "InUse",
        "InvalidName",
        "InvalidPayload",
        "InvalidSetting",
        "ListenerDropped",
        "LogError",
        "MissingColumn",
        "NewerFormat",
        "OnceFull",
        "NotImportable",
        "OutcomeUnknown",
        "ProtocolError",
        "PublishError",
        "PublishTimeout",
        "QueueFull",
        "RecordTooLarge",
        "RecordsTrimmed",
        "SequenceError",
        "SettingsMismatch",
        "StreamReadOnly",
        "SyncFailed",
        "UnknownRecord",
        "UnknownSink",
        "UnknownStream",
        "UsageError",
        "WorkerDied",
    ),
    "dq.log.backend": (
        "get_backend_class",
        "list_backends",
        "register_backend",
    ),
    "dq.log.storage": (
        "BucketPlace",
        "StorageBackend",
    ),
    "dq.mend.verify": (
        "Verification",
        "verify",
    ),
    "dq.model.event": (
        "Event",
        "EventOwner",
        "EventType",
    ),
    "dq.model.outcome": ("Outcome",),
    "dq.model.receipt": (
        "Receipt",
        "Receipts",
    ),
    "dq.model.record": ("Record",),
    "dq.model.settings": (
        "SinkSettings",
        "StreamSettings",
    ),
    "dq.model.signal": (
        "BroadcastResult",
        "Signal",
    ),
    "dq.model.task": ("TaskIn",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AlreadySettled", "App", "AppConfig", "BackendFailed", "BroadcastFailed", "BroadcastResult", "Broker",
    "BrokerError", "BrokerLost", "BrokerManager", "BrokerNotRunning", "BrokerRunning", "BucketPlace", "Closed",
    "Consumer", "Damaged", "DeadLetters", "DeadRecord", "Death", "DiskFull", "DqError", "Event", "EventOwner",
    "EventType", "FileOnce", "Forked", "HandlerError", "HandlerTimeout", "Holding", "Holdings", "InUse", "InvalidName",
    "InvalidPayload", "InvalidSetting", "Listener", "ListenerDropped", "LogError", "MissingColumn", "NewerFormat",
    "NotImportable", "OnceFull", "Outcome", "OutcomeUnknown", "Pinned", "ProcessMetrics", "ProtocolError",
    "PublishError", "PublishTimeout", "Publisher", "QueueFull", "Reader", "Receipt", "Receipts", "Record",
    "RecordTooLarge", "RecordsTrimmed", "SequenceError", "SettingsMismatch", "Signal", "Sink", "SinkSettings",
    "SinkStats", "Snapshot", "SqliteOnce", "StorageBackend", "Stream", "StreamMetrics", "StreamReadOnly",
    "StreamSettings", "StreamStats", "SyncFailed", "Task", "TaskIn", "Topic", "UnknownRecord", "UnknownSink",
    "UnknownStream", "UsageError", "Values", "Verification", "WorkerDied", "connect", "get_backend_class",
    "list_backends", "register_backend", "verify",
]  # fmt: skip
__version__ = "0.1.0"


if not TYPE_CHECKING:  # a type checker is to see the names above, and no others

    def __getattr__(name):
        """Imports a public name at its first use."""
        home = _HOME_OF.get(name)
        if home is None:
            raise AttributeError(f"module 'dq' has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(home), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})

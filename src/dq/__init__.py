"""dq: a durable queue and record stream for the processes of one host, with no server to install."""

from dq.client.broker import Broker, connect
from dq.client.consumer import Consumer
from dq.client.manager import BrokerManager
from dq.client.publisher import Publisher
from dq.client.task import Task
from dq.errors import (
    AlreadySettled,
    BrokerError,
    BrokerLost,
    BrokerNotRunning,
    BrokerRunning,
    Closed,
    Damaged,
    DiskFull,
    DqError,
    Forked,
    InUse,
    InvalidName,
    InvalidPayload,
    InvalidSetting,
    LogError,
    NewerFormat,
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
    UnknownStream,
    UsageError,
)
from dq.model.event import Event, EventOwner, EventType
from dq.model.outcome import Outcome
from dq.model.receipt import Receipt, Receipts
from dq.model.record import Record
from dq.model.settings import SinkSettings, StreamSettings
from dq.model.task import TaskIn

__all__ = [
    "AlreadySettled", "Broker", "BrokerError", "BrokerLost", "BrokerManager", "BrokerNotRunning", "BrokerRunning",
    "Closed", "Consumer", "Damaged", "DiskFull", "DqError", "Event", "EventOwner", "EventType", "Forked", "InUse",
    "InvalidName", "InvalidPayload", "InvalidSetting", "LogError", "NewerFormat", "Outcome", "OutcomeUnknown",
    "ProtocolError", "PublishError", "PublishTimeout", "Publisher", "QueueFull", "Receipt", "Receipts", "Record",
    "RecordTooLarge", "RecordsTrimmed", "SequenceError", "SettingsMismatch", "SinkSettings", "StreamReadOnly",
    "StreamSettings", "SyncFailed", "Task", "TaskIn", "UnknownStream", "UsageError", "connect",
]  # fmt: skip
__version__ = "0.1.0"

"""All settings, one declaration each: the file's keys, the variables, `dq config` and docs/configuration.md are made from it.

What is a fact of safety, as the size of a frame, is no setting: it stands in `dq.config`.
"""

from __future__ import annotations

from typing import Final

from dq.config import LIMITS
from dq.model.settings import BUCKETS_MAX, RETENTIONS, SinkSettings, StreamSettings
from dq.settings.setting import Kind, Part, Setting

FILE: Final = "dq.toml"
"""The file of settings in a data directory."""
DIRECTORY: Final = "DQ_DIR"
"""The variable that names the data directory. That is no setting: the file of settings lies in it."""
LOG_LEVELS: Final = ("auto", "debug", "info", "warning", "error", "critical")
LOG_FORMATS: Final = ("auto", "text", "json")
_STREAM, _SINK = StreamSettings(), SinkSettings()
_LONG_SECONDS, _MANY = 10.0**9, 1 << 62

_DECLARED: Final = (
    Setting(
        name="buckets", part=Part.STREAM, kind=Kind.COUNT, default=_STREAM.buckets, low=1, high=BUCKETS_MAX,
        why="One bucket keeps the order of the whole stream. More share its keys out, at a sync each in every commit; the "
        "number is fixed when a stream is made.",
    ),
    Setting(
        name="durability", part=Part.STREAM, kind=Kind.CHOICE, default=_STREAM.durability, choices=("sync", "interval", "os"),
        why="A receipt means that the record is on disk. The others are faster, and lose the last second (interval) or half "
        "minute (os) when the machine dies.",
    ),
    Setting(
        name="sync_seconds", part=Part.STREAM, kind=Kind.TIME, default=_STREAM.sync_seconds, low=0.01, high=3_600,
        why="How often a stream with durability interval is flushed: what a power loss may take with it.",
    ),
    Setting(
        name="retention", part=Part.STREAM, kind=Kind.CHOICE, default=_STREAM.retention, choices=RETENTIONS,
        why="What every sink has settled goes by itself, and nothing before. limits is the default where max_records, "
        "max_bytes or max_age is set; forever fills the disk.",
    ),
    Setting(
        name="keep_seconds", part=Part.STREAM, kind=Kind.TIME, default=_STREAM.keep_seconds, low=0, high=10**10,
        why="What is settled stays for a day, to be looked at or read again.",
    ),
    Setting(
        name="keep_bytes", part=Part.STREAM, kind=Kind.SIZE, default=_STREAM.keep_bytes, low=0, high=_MANY,
        why="What is settled goes sooner when a stream is larger than this, so that a busy day does not fill the disk.",
    ),
    Setting(
        name="max_records", part=Part.STREAM, kind=Kind.COUNT, default=_STREAM.max_records, low=1, high=_MANY,
        why="No limit: nothing is dropped unread unless somebody has asked for it.",
    ),
    Setting(
        name="max_bytes", part=Part.STREAM, kind=Kind.SIZE, default=_STREAM.max_bytes, low=1, high=_MANY,
        why="No limit, as of max_records.",
    ),
    Setting(
        name="max_age", part=Part.STREAM, kind=Kind.TIME, default=_STREAM.max_age, low=0.001, high=10**10,
        why="No limit, as of max_records.",
    ),
    Setting(
        name="once_seconds", part=Part.STREAM, kind=Kind.TIME, default=_STREAM.once_seconds, low=0.1, high=10**7,
        why="How long a key of publish(once=) is remembered: ten times what a publisher looks for a lost broker. Each takes "
        "memory until then.",
    ),
    Setting(
        name="segment_bytes", part=Part.STREAM, kind=Kind.SIZE, default=_STREAM.segment_bytes, low=4_096, high=1 << 40,
        why="Disk comes back by the segment; one of 64 MiB is checked in about 0.2 s after a crash.",
    ),
    Setting(
        name="ack_grace", part=Part.SINK, kind=Kind.TIME, default=_SINK.ack_grace, low=0.05, high=7 * 86_400,
        why="A consumer that dies is seen at once. This is for one that hangs: shorter, and a stopped process loses its tasks "
        "to others.",
    ),
    Setting(
        name="max_attempts", part=Part.SINK, kind=Kind.COUNT, default=_SINK.max_attempts, low=1, high=1_000_000,
        why="Enough for a fault that passes; then the record is a dead letter, and holds nobody up. Handlers of an App have "
        "their own.",
    ),
    Setting(
        name="publish_timeout", part=Part.CLIENT, kind=Kind.TIME, default=LIMITS.publish_timeout_seconds, low=0.001,
        high=_LONG_SECONDS,
        why="How long publish() waits for its answer. A commit takes milliseconds, the replacement of a broker that died a "
        "second or two.",
    ),
    Setting(
        name="reconnect_timeout", part=Part.CLIENT, kind=Kind.TIME, default=LIMITS.reconnect_timeout_seconds, low=0,
        high=_LONG_SECONDS,
        why="How long a client looks for a broker that went away: enough for a restart that checks a large log.",
    ),
    Setting(
        name="broker_linger", part=Part.BROKER, kind=Kind.TIME, default=LIMITS.linger_seconds, low=0, high=_LONG_SECONDS,
        why="A broker that a client started (--start, connect(start=True)) leaves so long after its last client: the next "
        "command of a script still finds it.",
    ),
    Setting(
        name="log_level", part=Part.BROKER, kind=Kind.CHOICE, default="auto", choices=LOG_LEVELS,
        why="auto: `dq serve` and `dq work` say what they do (info), all others what is wrong (warning).",
    ),
    Setting(
        name="log_format", part=Part.BROKER, kind=Kind.CHOICE, default="auto", choices=LOG_FORMATS,
        why="auto: for people, with colours on a terminal; json is for what collects logs. See docs/logs.md.",
    ),
    Setting(
        name="metrics_port", part=Part.BROKER, kind=Kind.COUNT, default=None, low=1, high=65_535,
        why="No port is opened unless it was asked for. `dq serve` answers Prometheus there; see docs/metrics.md.",
    ),
    Setting(
        name="color", part=Part.COMMAND, kind=Kind.CHOICE, default="auto", choices=("auto", "always", "never"),
        why="Colours on a terminal and plain columns in a pipe. NO_COLOR is stronger than all.",
    ),
    Setting(
        name="confirm", part=Part.COMMAND, kind=Kind.FLAG, default=True,
        why="What cannot be undone is asked for first, and without a terminal needs --yes. With false it is done at once, "
        "as if --yes were said.",
    ),
)  # fmt: skip

SETTINGS: Final = {setting.name: setting for setting in _DECLARED}
"""All settings by name, in the order in which they are listed."""
TOGETHER: Final = (
    frozenset({"durability", "backend", "backend_options", "backend_path"}),
    frozenset({"retention", "max_records", "max_bytes", "max_age"}),
)
"""Settings of a stream that say one thing together: who asks for one of them gets none of the others from the defaults."""

"""Operator logs: what dq's processes say on standard error, as lines of text or of JSON, each written at once.

dq says all through the logger "dq" and sets nothing up in a program that uses it as a library: there, the program decides. The
processes that are dq's own (a broker's, those of `dq serve`, `dq work` and the like) call `begin`. No line has a payload, a key
or a header in it: see `dq.model.told`.
"""

from __future__ import annotations

import faulthandler
import io
import logging
import os
import select
import signal
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final

import orjson

from dq.errors import InvalidSetting
from dq.model.shown import one_line, safe
from dq.model.told import FACTS, frames_of
from dq.settings.table import LOG_FORMATS, LOG_LEVELS

LEVELS: Final = {name: getattr(logging, name.upper()) for name in LOG_LEVELS if name != "auto"}
LINE_BYTES_MAX: Final = 4_096
"""A pipe takes so much at once: a line that is longer could be torn by that of another process (pipe(7), PIPE_BUF)."""
_PATIENCE_MS: Final = 100
"""A reader that is only slow is waited for, once: after a line that was lost, none waits until one goes in again."""
_STYLES: Final = {"DEBUG": "dim", "INFO": "green", "WARNING": "yellow", "ERROR": "bold red", "CRITICAL": "bold red reverse"}
_PLAIN: Final[dict[str, Any]] = {"name": "dq", "args": (), "exc_info": None, FACTS: {}, "levelname": "WARNING"}
_Told = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


@dataclass(frozen=True, slots=True)
class LogWish:
    """How a process is to log.

    Attributes:
        level: of dq's own lines, a number as `logging` has it.
        form: "json", "text", or "auto": on a terminal text with colours, elsewhere without.
        others: the level of all other loggers of the process; None: as `level`.
    """

    level: int = logging.WARNING
    form: str = "auto"
    others: int | None = None


def wished(
    settings: Mapping[str, Any], usual: int = logging.WARNING, level: int | None = None, form: str | None = None
) -> LogWish:
    """What was said, else what the settings say, else what is usual.

    Args:
        settings: those of the data directory, by name.
        usual: the level where nothing was said.
        level: that was said, or None.
        form: that was said, or None.

    Raises:
        InvalidSetting: `form` is none.
    """
    form = form or str(settings["log_format"])
    if form not in LOG_FORMATS:
        raise InvalidSetting(f"log_format is one of {', '.join(LOG_FORMATS)}, not {form!r}")
    return LogWish(LEVELS.get(settings["log_level"], usual) if level is None else level, form)


def of_broker(level: int, form: str) -> LogWish:
    """How a process of a broker logs: what its libraries have to say below INFO helps no operator."""
    return LogWish(level, form, max(level, logging.INFO))


def begin(process: str, wish: LogWish) -> bool:
    """Has this process log to standard error. False, and nothing is done, where the program has set up `logging` itself.

    Args:
        process: what it is, as lines name it: "manager", "publisher broker", "worker".
    """
    root = logging.getLogger()
    if root.handlers:
        return False
    root.addHandler(LineHandler(process, wish.form))
    root.setLevel(wish.level if wish.others is None else wish.others)
    logging.getLogger("dq").setLevel(wish.level)
    return True


def handler_in_use() -> LineHandler | None:
    """The one that `begin` has set up here."""
    return next((each for each in logging.getLogger().handlers if isinstance(each, LineHandler)), None)


def dump_stacks_at_signal() -> None:
    """At SIGUSR1 this process writes the stacks of all its threads to standard error, and goes on. Not where somebody else has
    a use for that signal."""
    if signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL:
        faulthandler.register(signal.SIGUSR1, file=2)  # which is there: sys.stderr is None where it was closed


class LineHandler(logging.Handler):
    """Writes each record to standard error in one write."""

    def __init__(self, process: str, form: str) -> None:
        super().__init__()
        self.process, self.form = process, form
        self._lost = 0

    @property
    def json(self) -> bool:
        """Whether its lines are JSON."""
        return self.form == "json"

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record; one that cannot be written is lost: nobody is to end for a log."""
        line = self.line_of(record)
        try:
            if not _takes_more(sys.stderr, 0 if self._lost else _PATIENCE_MS):
                self._lost += 1
                return
            if self._lost:
                lost, self._lost = self._lost, 0
                text = f"{lost} lines of this process are lost: nobody read the log"
                sys.stderr.write(self.line_of(logging.makeLogRecord({**vars(record), **_PLAIN, "msg": text})))
            sys.stderr.write(line)
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError):  # full, closed, or there is none
            return

    def line_of(self, record: logging.LogRecord) -> str:
        """A record as it is written, with its newline."""
        message, stack = _message_of(record), _stack_of(record)
        if record.name != "dq":
            return self._made(record, message, stack)
        line = self._made(record, message, stack)
        while (over := len(line.encode("utf-8", "backslashreplace")) - LINE_BYTES_MAX) > 0:
            if stack:
                stack = stack[over + 64 :].partition("\n")[2]
            else:
                message = message[: len(message) // 2] + "…"
            line = self._made(record, message, stack)
        return line

    def _made(self, record: logging.LogRecord, message: str, stack: str) -> str:
        if self.json:
            return self._json(record, message, stack)
        below = "".join(f"\n    {one_line(each)}" for each in stack.splitlines())
        source = self.process if record.name == "dq" else f"{self.process} {one_line(record.name)}"
        if self.form == "auto" and styled(sys.stderr):
            return _rich_line(record, source, message, below)
        at = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{at}.{int(record.msecs):03}Z {record.levelname} {source}[{record.process}]: {message}{below}\n"

    def _json(self, record: logging.LogRecord, message: str, stack: str) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        fields: dict[str, Any] = {
            "time": at, "level": record.levelname, "process": self.process, "pid": record.process, "logger": record.name,
            "message": message,
        }  # fmt: skip
        for name, value in getattr(record, FACTS, {}).items():
            if name != "frames":  # they are the traceback
                fields.setdefault(name, value if isinstance(value, (int, float)) else safe(value))
        if stack:
            fields["traceback"] = safe(stack)
        return safe(orjson.dumps(fields, default=str).decode()) + "\n"


def _takes_more(stream: Any, wait_ms: int) -> bool:
    """Whether a line can be written within a time: a pipe that nobody reads is full one day, and a broker is not to stand still
    for who reads its log. (A pipe says that it can be written to when it has room for a line.)"""
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError, AttributeError):  # it is none of the system's
        return True
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(wait_ms))


def styled(stream: Any) -> bool:
    """Whether a stream is a terminal that wants colours: see https://no-color.org. None, where it was closed, is none."""
    return stream is not None and stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _message_of(record: logging.LogRecord) -> str:
    try:
        return one_line(record.getMessage())
    except Exception:  # what the arguments of a call raise when they are to be text, is theirs
        return f"a log call at {one_line(record.pathname)}:{record.lineno} has arguments that do not fit it"


def _stack_of(record: logging.LogRecord) -> str:
    """The traceback of a record: of dq's own without what is in the errors; what others log is theirs."""
    told: _Told | None = record.exc_info
    if not told or told[1] is None:
        return str(getattr(record, FACTS, {}).get("frames", "")) if record.name == "dq" else ""
    if record.name == "dq":
        return frames_of(told[1])
    return "".join(traceback.format_exception(told[1])).rstrip()


def _rich_line(record: logging.LogRecord, source: str, message: str, below: str) -> str:
    from rich.console import Console
    from rich.text import Text

    at = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
    text = Text.assemble(
        (at, "dim"), " ", (f"{record.levelname:<8}", _STYLES.get(record.levelname, "")), " ",
        (f"{source}[{record.process}]", "cyan"), " ", message, (below, "dim"),
    )  # fmt: skip
    out = io.StringIO()
    Console(file=out, force_terminal=True, highlight=False).print(text, soft_wrap=True)
    return out.getvalue()

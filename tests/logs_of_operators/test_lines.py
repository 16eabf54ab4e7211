"""Lines of the operators' logs: their form, how long they are, that nothing steers a terminal, and what is written at once."""

from __future__ import annotations

import io
import logging
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from dq import operator_logs
from dq.errors import BackendFailed, Damaged, DiskFull, InvalidPayload, InvalidSetting, ListenerDropped, StreamReadOnly
from dq.log.guard import failed
from dq.model.shown import outlined
from dq.model.told import about, foreign, frames_of, place_of, words_of
from dq.operator_logs import LINE_BYTES_MAX, LineHandler, LogWish, wished
from dq.settings.values import settings_of

STEERING = "\x1b]0;owned\x07\x9b31m\u202e\r\n2026-01-01T00:00:00.000Z ERROR forged"


class Written(io.StringIO):
    """A standard error that counts its writes."""

    def __init__(self, *, terminal: bool = False) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.terminal = terminal

    def write(self, text: str) -> int:
        self.lines.append(text)
        return len(text)

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch):
    """`said("json", lambda log: log.warning(...))`: what a handler of that form wrote, a write each."""

    def run(form: str, call, *, name: str = "dq", terminal: bool = False) -> list[str]:
        written = Written(terminal=terminal)
        monkeypatch.setattr(sys, "stderr", written)
        log = logging.Logger(name)
        log.addHandler(LineHandler("publisher broker", form))
        call(log)
        return written.lines

    return run


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    try:
        raise error from cause
    except Exception as caught:
        return caught


def test_a_line_of_json_has_time_level_process_and_what_it_is_about(said) -> None:
    extra = about(DiskFull("full"), stream="orders", bucket=3)
    (line,) = said("json", lambda log: log.warning("stream %s waits", "orders", extra=extra))
    fields = orjson.loads(line)
    assert line.endswith("}\n")
    at = datetime.fromisoformat(fields.pop("time"))
    assert at.utcoffset() == UTC.utcoffset(None)
    assert abs((datetime.now(UTC) - at).total_seconds()) < 60
    assert fields == {
        "level": "WARNING", "process": "publisher broker", "pid": os.getpid(), "logger": "dq",
        "message": "stream orders waits", "stream": "orders", "bucket": 3, "error": "DiskFull",
    }  # fmt: skip


def test_a_line_of_text_is_one_that_grep_can_use(said) -> None:
    for form in ("text", "auto"):
        (line,) = said(form, lambda log: log.error("sink %s is closed", "mailers"))
        assert re.fullmatch(
            rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{{3}}Z ERROR publisher broker\[{os.getpid()}\]: sink mailers is closed\n",
            line,
        )


def test_a_terminal_gets_colours_unless_it_wants_none(said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    long = "x" * 300
    (coloured,) = said("auto", lambda log: log.warning("%s", long), terminal=True)
    assert "\x1b[33mWARNING" in coloured
    assert long in coloured  # nothing is wrapped
    monkeypatch.setenv("NO_COLOR", "1")
    (plain,) = said("auto", lambda log: log.warning("%s", long), terminal=True)
    assert "\x1b" not in plain
    monkeypatch.delenv("NO_COLOR")
    (text,) = said("text", lambda log: log.warning("%s", long), terminal=True)
    assert "\x1b" not in text


@pytest.mark.parametrize("form", ["text", "json", "auto"])
def test_nothing_in_a_line_steers_a_terminal_or_forges_another_line(said, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    def call(log: logging.Logger) -> None:
        log.error("%s", STEERING, extra=about(stream=STEERING, error=STEERING))

    for name in ("dq", "the.users.own"):
        (line,) = said(form, call, name=name, terminal=form == "auto")
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", line)
        assert line.count("\n") == 1


def test_a_long_line_is_cut_to_what_a_pipe_takes_at_once(said) -> None:
    error = raised(ValueError("x"))
    for _ in range(20):
        error = raised(ValueError("x"), error)
    deep = "".join(f"a{n}/" for n in range(2_000))
    for form in ("text", "json"):
        for written in (
            said(form, lambda log: log.error("%s", "\u00e9\x1b" * 5_000)),
            said(form, lambda log: log.error("%s", deep, exc_info=error)),
        ):
            (line,) = written
            assert len(line.encode()) <= LINE_BYTES_MAX
            if form == "json":
                assert orjson.loads(line)["level"] == "ERROR"


def test_what_cannot_be_written_ends_nobody(said, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, a closed stream, arguments that do not fit."""
    (line,) = said("text", lambda log: log.error("%d of %d", "none"))
    assert "has arguments that do not fit it" in line

    class Full(Written):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    handler = LineHandler("manager", "json")
    record = logging.LogRecord("dq", logging.ERROR, __file__, 1, "lost", (), None)
    handler.emit(record)
    monkeypatch.setattr(sys, "stderr", None)
    handler.emit(record)
    assert orjson.loads(handler.line_of(record))["message"] == "lost"


def test_nobody_waits_for_who_reads_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe that is full: what does not go in is counted, and told once it is read again."""
    ours, theirs = os.pipe()
    with open(ours, "rb") as out, open(theirs, "w") as err:
        monkeypatch.setattr(sys, "stderr", err)
        log = logging.Logger("dq")
        log.addHandler(LineHandler("manager", "json"))
        for number in range(100):
            log.warning("%s %d", "x" * 2_000, number)
        os.set_blocking(ours, False)
        before = [orjson.loads(line) for line in out.read().splitlines()]
        log.warning("again")
        monkeypatch.undo()
        lost, again = [orjson.loads(line)["message"] for line in out.read().splitlines()]
    assert 10 < len(before) < 100
    assert lost == f"{100 - len(before)} lines of this process are lost: nobody read the log"
    assert again == "again"


def test_lines_of_several_processes_are_not_torn() -> None:
    code = (
        "import logging, sys\nfrom dq import operator_logs\n"
        "operator_logs.begin(sys.argv[1], operator_logs.LogWish(10, 'json'))\n"
        "for n in range(300): logging.getLogger('dq').info('%d %s', n, sys.argv[1] * 3_000)"
    )
    ours, theirs = os.pipe()
    writers = [subprocess.Popen([sys.executable, "-c", code, letter], stderr=theirs) for letter in "abc"]
    os.close(theirs)
    with open(ours, "rb") as out:
        lines = [orjson.loads(line) for line in out]  # each is whole
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert {line["process"] for line in lines} == set("abc")
    for line in lines:
        if "lost" not in line["message"]:
            assert line["message"].split(" ")[1] == line["process"] * 3_000


def test_the_traceback_of_dqs_own_has_no_texts_and_that_of_others_has(said) -> None:
    error = raised(KeyError("secret-key"), ValueError("secret-payload"))
    for form in ("text", "json"):
        (own,) = said(form, lambda log: log.error("a fault", exc_info=error))
        assert "secret" not in own
        assert f"{os.path.basename(__file__)}:" in own
        assert own.index("ValueError") < own.index("KeyError")
        (users,) = said(form, lambda log: log.error("a fault", exc_info=error), name="shop")
        assert "secret-key" in users
        assert "shop" in users


def test_what_a_log_says_of_errors() -> None:
    """dq's own words and the system's; of a user's error its type and its place."""
    assert words_of(Damaged("orders/0 is damaged at byte 7: run repair")) == "orders/0 is damaged at byte 7: run repair"
    assert words_of(FileNotFoundError(2, "No such file or directory", "/x\x1b")) == "/x\\u001b: No such file or directory"
    for error in (ValueError("secret"), InvalidPayload("payload['secret'] is nan"), BackendFailed("KeyError: secret")):
        assert "secret" not in words_of(error)
        assert type(error).__name__ in words_of(error)
    # A backend class's own words are left out, wherever they are quoted, and a listener's.
    own = failed(LineHandler, "store a batch in stream 'orders', bucket 0", ValueError("secret: {'card': 1}\nsecret"))
    for error in (
        own,
        BackendFailed(f"{own}; whether it is stored is not known"),
        StreamReadOnly(f"it takes no records: {own}"),
    ):
        assert "secret" in str(error)
        assert words_of(error).endswith(
            "the backend class LineHandler failed to store a batch in stream 'orders', bucket 0: ValueError"
        )
    dropped = ListenerDropped("this listener failed 3 times in a row, the last time with 'KeyError: secret'. Mend it")
    assert words_of(dropped) == "this listener failed 3 times in a row"
    assert foreign(OSError(2, "secret", "secret")) == "FileNotFoundError"
    error = raised(ZeroDivisionError("secret"))
    assert re.fullmatch(r"ZeroDivisionError at test_lines\.py:\d+ in raised", place_of(error))
    assert "secret" not in frames_of(error)
    assert place_of(ValueError("never raised")) == "ValueError"


def test_an_outline_shows_numbers_and_how_long_the_rest_is() -> None:
    note = {"intent": 7, "stream": "orders", "error": "secret", "once": "secret", "ranges": [[1, 2]], "key": 41, "at": [1.5]}
    shown = outlined(note)
    assert "secret" not in shown
    assert "41" not in shown
    assert "'intent': 7" in shown
    assert "'at': [1.5]" in shown
    assert outlined(["secret", 1, {"secret": 1}]) == "[<text of 6>, 1, <dict of 1>]"
    deep: list[object] = ["secret"]
    for _ in range(900):
        deep = [deep, "secret"]
    assert outlined(deep) == "[[[[...], <text of 6>], <text of 6>], <text of 6>]"


def test_the_environment_says_how_to_log(tmp_path: Path) -> None:
    def settings(**environ: str) -> Mapping[str, Any]:
        return settings_of(tmp_path, environ={f"DQ_{name}": value for name, value in environ.items()}).values

    assert wished(settings()) == LogWish(logging.WARNING, "auto")
    assert wished(settings(LOG_LEVEL="")) == LogWish(logging.WARNING, "auto")
    said = settings(LOG_LEVEL="Info", LOG_FORMAT="json")
    assert wished(said, logging.ERROR) == LogWish(logging.INFO, "json")
    assert wished(said, logging.ERROR, logging.DEBUG, "text") == LogWish(logging.DEBUG, "text")
    with pytest.raises(InvalidSetting, match="one of auto, debug, info, warning, error, critical, not 'loud'"):
        settings(LOG_LEVEL="loud")
    with pytest.raises(InvalidSetting, match="one of auto, text, json, not 'xml'"):
        settings(LOG_FORMAT="xml")
    with pytest.raises(InvalidSetting, match="log_format"):
        wished(settings(), form="xml")


def test_a_program_that_logs_in_its_own_way_keeps_it() -> None:
    handlers = list(logging.getLogger().handlers)
    assert handlers  # those of the tests
    assert operator_logs.begin("manager", LogWish()) is False
    assert logging.getLogger().handlers == handlers
    assert operator_logs.handler_in_use() is None

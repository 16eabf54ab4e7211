"""Every command on a pseudo-terminal: it ends as in a pipe, no record steers the terminal, Ctrl-C ends what waits."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from pathlib import Path

import every_command as every
import pytest

from stage import until

DQ = [sys.executable, "-c", "from dq.main import command; raise SystemExit(command())"]
NAMES = [name for name in every.ROWS if name != "stop"]
MANY = """
import json, sys
from dq.cli.commands import run
codes = []
for arguments in json.load(open(sys.argv[1])):
    codes.append(run(arguments, "dq"))
    sys.stdout.write("\\x1e")
    sys.stdout.flush()
json.dump(codes, open(sys.argv[2], "w"))
"""
"""Runs commands in one interpreter, and writes a mark that no command prints after each."""
CONTROLLED = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
"""Makes standard input the terminal whose Ctrl-C it obeys."""
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
CLEARED, STEERING = "\x1b[2J\x1b]52", "\x07\r\x7f\x9b\u202e"


class Terminal:
    """80 columns, 24 lines; what is written on it is collected."""

    def __init__(self) -> None:
        self.ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self._content = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # EIO: nobody has it open any more
            while content := os.read(self.ours, 65_536):
                self._content += content

    @property
    def text(self) -> str:
        return self._content.decode("utf-8", "replace")

    def start(self, command: list[str], **env: str) -> subprocess.Popen[bytes]:
        whole = {**os.environ, "TERM": "xterm-256color", **env}
        return subprocess.Popen(
            command, stdin=self.theirs, stdout=self.theirs, stderr=self.theirs, env=whole, start_new_session=True
        )

    def type(self, keys: bytes) -> None:
        os.write(self.ours, keys)

    def close(self) -> None:
        """Once nobody else has it open: all that was written has been read then."""
        os.close(self.theirs)
        self._reader.join(10)
        os.close(self.ours)


@contextlib.contextmanager
def terminal() -> Iterator[Terminal]:
    shown = Terminal()
    try:
        yield shown
    finally:
        shown.close()


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    with every.lived_in(tmp_path_factory.mktemp("dq") / "queue_data") as broker:
        yield broker


def shown_by(lines: list[list[str]], tmp_path: Path, **env: str) -> list[tuple[int, str]]:
    """The code of each command, and what it showed."""
    (tmp_path / "lines").write_text(json.dumps(lines))
    shown = Terminal()
    tty.setraw(shown.theirs)  # a line's end stays one
    child = shown.start([sys.executable, "-c", MANY, str(tmp_path / "lines"), str(tmp_path / "codes")], **env)
    try:
        code = child.wait(60)
    finally:
        child.kill()
        shown.close()
    assert code == 0, shown.text
    codes = json.loads((tmp_path / "codes").read_text())
    return list(zip(codes, shown.text.split("\x1e"), strict=False))


def test_on_a_terminal_they_end_as_in_a_pipe_in_colours_and_no_record_steers_it(broker, tmp_path) -> None:
    found = shown_by([every.line_of(name, broker.root, run=1) for name in NAMES], tmp_path)
    assert len(found) == len(NAMES)
    for name, (code, text) in zip(NAMES, found, strict=True):
        assert (name, code) == (name, 0), text
        assert not set(STEERING) & set(text), name
        assert CLEARED not in text, name
        if name != "top":  # has a screen of its own
            assert "\x1b" not in COLOURS.sub("", text), name
    shown = dict(zip(NAMES, (text for _, text in found), strict=True))
    assert COLOURS.search(shown["streams"])
    for name in ("tail", "peek", "dlq show", "export", "repair"):
        assert "\\u001b[2J" in shown[name], name


def test_no_color_and_a_dumb_terminal_get_plain_text(broker, tmp_path) -> None:
    found = shown_by([every.line_of(name, broker.root, run=2) for name in NAMES], tmp_path, NO_COLOR="1", TERM="dumb")
    assert [(name, code) for name, (code, _) in zip(NAMES, found, strict=True)] == [(name, 0) for name in NAMES]
    assert not set("\x1b" + STEERING) & set("".join(text for _, text in found))


def test_json_is_for_machines_on_a_terminal_too(broker, tmp_path) -> None:
    names = [name for name in NAMES if every.has_json(name)]
    found = shown_by([every.line_of(name, broker.root, "--json", run=3) for name in names], tmp_path)
    for name, (code, text) in zip(names, found, strict=True):
        assert (name, code) == (name, 0), text
        assert not set("\x1b" + STEERING) & set(text), name
        for line in text.splitlines():
            if not line.startswith("dq: ") and name != "repair":  # remarks are of standard error
                json.loads(line)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["serve", "{new}"], 0),
        (["consume", "free", "--sink", "waits", "--data", "{root}"], 130),
        (["tail", "free", "-f", "--data", "{root}"], 130),
        (["events", "-f", "{root}"], 130),
        (["work", "tasks:app", "--data", "{root}"], 0),
        (["top", "-i", "0.1", "--data", "{root}"], 130),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_ctrl_c_ends_what_waits(broker, tmp_path, arguments, code) -> None:
    (tmp_path / "tasks.py").write_text(
        "import dq\napp = dq.App(sink='worked')\n@app.handler('worked-on')\ndef handle(task):\n    pass\n"
    )
    line = [part.format(root=broker.root, new=tmp_path / "new") for part in arguments]
    with terminal() as shown:
        child = shown.start([sys.executable, "-c", CONTROLLED, *DQ, *line], PYTHONPATH=str(tmp_path))
        try:

            def spoke() -> bool:
                broker.publish("free", 1)
                return bool(shown.text)

            until(spoke, what="it has shown something")
            shown.type(b"\x03")
            ended = child.wait(20)
        finally:
            child.kill()
            child.wait()
    assert ended == code, shown.text
    assert "Traceback" not in shown.text


@pytest.mark.parametrize("answer", [b"n\n", b"y\n"])
def test_a_terminal_is_asked(broker, answer) -> None:
    with terminal() as shown:
        child = shown.start([*DQ, "stream", "destroy", "gone4", "--data", str(broker.root)])
        try:
            until(lambda: "Go on?" in shown.text, what="it asks")
            shown.type(answer)
            ended = child.wait(20)
        finally:
            child.kill()
            child.wait()
    assert (ended, "gone4" in broker.streams()) == ((1, True) if answer == b"n\n" else (0, False))


def test_a_reader_that_leaves_ends_it_quietly(broker) -> None:
    tail = subprocess.Popen([*DQ, "tail", "free", "--data", str(broker.root)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    tail.stdout.close()
    _, errors = tail.communicate(timeout=20)
    assert (tail.returncode, errors) == (141, b"")

"""`Crew`: several processes of `dq work`, watched over: one that ends is started again, and all end together."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from random import Random
from types import FrameType
from typing import Final

from dq.app.worker_process import ended_by
from dq.cli.exits import Exit
from dq.core.retry import backoff

log = logging.getLogger("dq")
_LOOK_SECONDS: Final = 0.05
_SOON_SECONDS: Final = 5.0
"""Who ends sooner after its start has a fault that another start is not likely to mend: it waits longer each time."""
_OFTEN: Final = 5
_KILL_SECONDS: Final = 3.0
"""What a member has to end after the second signal."""


class Member:
    """One of the processes.

    Attributes:
        failures: how often in a row it ended soon after its start.
        start_at: monotonic seconds when it is to be started again; of one that runs, 0.
        over: whether it has ended well, or was told to end and has.
        ready: whether it has found its app and its broker.
    """

    def __init__(self, number: int, command: Sequence[str]) -> None:
        self.number, self._command = number, command
        self.process: subprocess.Popen[bytes] | None = None
        self.failures, self.start_at, self.over, self.ready = 0, 0.0, False, False
        self.started_at = 0.0
        self._ready_end = -1

    def start(self) -> None:
        """Starts it: in a session of its own, so that Ctrl-C is for the supervisor alone."""
        self._ready_end, theirs = os.pipe()
        os.set_blocking(self._ready_end, False)
        self.process = subprocess.Popen(
            [*self._command, "--member", str(theirs)], stdin=subprocess.PIPE, pass_fds=(theirs,), start_new_session=True
        )
        os.close(theirs)
        self.started_at, self.start_at, self.ready = time.monotonic(), 0.0, False

    def look(self) -> int | None:
        """Its exit code, once it has ended; hears whether it is ready."""
        if self.process is None:
            return None
        if self._ready_end >= 0:
            with contextlib.suppress(BlockingIOError):
                self.ready = os.read(self._ready_end, 1) == b"r" or self.ready
                self._close_ready_end()
        code = self.process.poll()
        if code is not None:
            self._close_ready_end()
            if self.process.stdin is not None:
                with contextlib.suppress(OSError):
                    self.process.stdin.close()
            self.process = None
        return code

    def _close_ready_end(self) -> None:
        if self._ready_end >= 0:
            os.close(self._ready_end)
            self._ready_end = -1

    def tell(self, word: bytes) -> None:
        """Says something to it."""
        if self.process is not None and self.process.stdin is not None:
            with contextlib.suppress(OSError):
                os.write(self.process.stdin.fileno(), word + b"\n")

    def kill(self) -> None:
        """At once."""
        if self.process is not None:
            self.process.kill()


class Crew:
    """The supervisor.

    Args:
        target: `MODULE:APP`.
        count: how many processes.
        options: of the command line, for each of them.
    """

    def __init__(self, target: str, count: int, options: Sequence[str]) -> None:
        command = [sys.executable, "-m", "dq.main", "work", target, *options]
        self._members = [Member(number, command) for number in range(1, count + 1)]
        self._signals = self._told = 0
        self._kill_at: float | None = None
        self._jitter = Random()

    def run(self) -> int:
        """Until all have ended; the exit code. Where the first one cannot even begin, that is its code."""
        before = {number: signal.signal(number, self._signalled) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            code = self._begin()
            if code is None:
                log.info(
                    "%d processes work, %s",
                    len(self._members),
                    ", ".join(str(each.process.pid) for each in self._members if each.process),
                )
                code = self._watch()
            return code
        finally:
            for member in self._members:
                member.kill()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1

    def _begin(self) -> int | None:
        """The first one shows whether there is an app and a broker; then the others. An exit code where there is not."""
        first = self._members[0]
        first.start()
        while not first.ready:
            self._tell()
            code = first.look()
            if code is not None and not first.ready:
                return code if code >= 0 else Exit.FAILED
            if code is not None:
                self._ended(first, code)
                break
            time.sleep(_LOOK_SECONDS)
        for member in self._members[1:]:
            member.start()
        return None

    def _watch(self) -> int:
        while not all(member.over for member in self._members):
            self._tell()
            now = time.monotonic()
            for member in self._members:
                code = member.look()
                if code is not None:
                    self._ended(member, code)
                elif member.start_at and (self._signals or now >= member.start_at):
                    self._start_again(member)
            time.sleep(_LOOK_SECONDS)
        return Exit.INTERRUPTED if self._signals > 1 else Exit.WELL

    def _start_again(self, member: Member) -> None:
        if self._signals:
            member.start_at, member.over = 0.0, True
        else:
            member.start()

    def _tell(self) -> None:
        """Passes on what signals have asked for: once each."""
        wished = min(self._signals, 2)
        while self._told < wished:
            self._told += 1
            if self._told == 1:
                log.info("stopping: what is in flight is waited for; a second signal ends it at once")
            else:
                self._kill_at = time.monotonic() + _KILL_SECONDS
            for member in self._members:
                member.tell(b"stop" if self._told == 1 else b"now")
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            for member in self._members:
                member.kill()

    def _ended(self, member: Member, code: int) -> None:
        if self._signals or code == Exit.WELL:
            member.over = True
            return
        soon = time.monotonic() - member.started_at < _SOON_SECONDS
        member.failures = member.failures + 1 if soon else 1
        after = backoff(member.failures, self._jitter)
        member.start_at = time.monotonic() + after
        say = log.error if member.failures >= _OFTEN else log.warning
        often = f", {member.failures} times in a row soon after its start" if member.failures >= _OFTEN else ""
        say("process %d of %d %s%s; started again in %.1f s", member.number, len(self._members), ended_by(code), often, after)

"""`WorkerProcess`: a handler's worker, as the app sees it: its process, its pipe, the tasks that it has."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from typing import Any, Final

import orjson

from dq.app.engine import Delivery
from dq.app.worker_task import line_of
from dq.transport.pipe import Broken, Ended, Pipe

_PROGRAM: Final = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from dq.app.worker import main; main(int(sys.argv[2]), sys.argv[3])"
)
_AHEAD_SECONDS: Final = 0.002
"""So much work is sent ahead of its turn: the way through the pipe is hidden behind the work."""
_AHEAD_MAX: Final = 15
_RECALL_SECONDS: Final = 0.05
"""A task that takes longer holds up those behind it: they are asked back."""
_SHARE: Final = 0.2
"""Of the last task in the running mean of how long one takes."""


class InHand:
    """A task that was sent to a worker.

    Attributes:
        number: names it on the pipe.
        delivery: the task.
        since: monotonic seconds at which it was begun, or, of one that waits there, sent.
        settled: whether its handler has settled it by a verb already.
    """

    __slots__ = ("delivery", "number", "settled", "since")

    def __init__(self, number: int, delivery: Delivery, since: float) -> None:
        self.number, self.delivery, self.since, self.settled = number, delivery, since, False


class WorkerProcess:
    """One worker.

    Args:
        options: JSON, for `dq.app.worker.main`.
        scratch: a buffer to read into that all workers of a pool share.

    Attributes:
        hand: the tasks that it has, oldest first: it works on the first one.
        ready: whether it has imported its handler.
        failed: why it cannot; or "".
        recalled: whether it was asked to give back what was sent ahead, and has not ended its task since.
        late: number of the task at whose timeout it was killed, or -1.
        done: tasks that it has ended.

    Raises:
        OSError: the process cannot be started.
    """

    def __init__(self, options: bytes, scratch: memoryview) -> None:
        ours, theirs = socket.socketpair()
        try:
            # In a session of its own: Ctrl-C is for the app, and all that a worker has started can be ended with it.
            self.process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, json.dumps(sys.path), str(theirs.fileno()), options.decode()],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self.pipe = Pipe(ours, scratch)
        self.pidfd = os.pidfd_open(self.pid) if hasattr(os, "pidfd_open") else None
        self.hand: deque[InHand] = deque()
        self.ready = False
        self.failed = ""
        self.late = -1
        self.recalled = False
        self.done = 0
        self._mean = 1.0  # slow, until it has shown otherwise

    @property
    def pid(self) -> int:
        """Of the process."""
        return self.process.pid

    @property
    def room(self) -> int:
        """How many more tasks it may be sent: one, or a few where they are very short."""
        if not self.ready or self.late >= 0 or self.recalled:
            return 0
        ahead = int(_AHEAD_SECONDS / max(self._mean, 1e-6)) if self.done else 0
        return 1 + min(ahead, _AHEAD_MAX) - len(self.hand)

    def give(self, number: int, delivery: Delivery) -> None:
        """Sends it a task.

        Raises:
            TypeError: the task cannot be written as JSON; nothing was sent.
            Broken: the worker is gone; it has the task in hand for all that.
        """
        line, payload = line_of(number, delivery)
        self.hand.append(InHand(number, delivery, time.monotonic()))
        self.pipe.send_parts(line, payload)

    def heard(self) -> list[dict[str, Any]]:
        """What it has said since, as far as one read takes it.

        Raises:
            Ended, Broken, ProtocolError, ValueError: it said its last, or nonsense.
        """
        return [orjson.loads(frame) for frame in self.pipe.receive()]

    def last_words(self) -> list[dict[str, Any]]:
        """All that a dead one has left in its pipe."""
        said: list[dict[str, Any]] = []
        with contextlib.suppress(Ended, Broken, ValueError):
            while True:
                before, count = self.pipe.inbox.waiting_bytes, len(said)
                said += self.heard()
                if len(said) == count and self.pipe.inbox.waiting_bytes == before:
                    break  # a process that it has forked keeps the pipe open
        return said

    def end_of(self, number: int) -> InHand | None:
        """Takes a task that it has ended out of its hand."""
        if not self.hand or self.hand[0].number != number:
            return None
        ended, now = self.hand.popleft(), time.monotonic()
        self._mean += _SHARE * (now - ended.since - self._mean)
        self.done += 1
        self.recalled = False
        if self.hand:
            self.hand[0].since = now
        return ended

    @property
    def ended(self) -> bool:
        """Whether the process has ended. It keeps its number until `bury`."""
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        try:
            return os.waitid(os.P_PID, self.pid, options) is not None
        except ChildProcessError:  # somebody has waited for all children
            return True

    @property
    def stuck_at(self) -> float:
        """Monotonic seconds when what was sent ahead is to be asked back; infinity where nothing was."""
        return self.hand[0].since + _RECALL_SECONDS if len(self.hand) > 1 and not self.recalled else math.inf

    def recall(self) -> None:
        """Asks for what was sent ahead and is not begun."""
        self.recalled = True
        with contextlib.suppress(Broken):
            self.pipe.send_parts(b"back")

    def dismiss(self) -> None:
        """It ends by itself once it has done what it has in hand."""
        with contextlib.suppress(Broken):
            self.pipe.send_parts(b"stop")

    def kill(self) -> None:
        """At once, with all that it has started. Not after `bury`: its number may be another's by then."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def bury(self) -> str:
        """Ends what it has left behind, waits for it, closes what it had; how it ended, for people."""
        self.kill()  # one that has ended keeps its exit code
        code = self.process.wait()
        self.pipe.close()
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None
        return ended_by(code)


def ended_by(code: int) -> str:
    """How a process ended, for people, by its return code as `subprocess` has it."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"

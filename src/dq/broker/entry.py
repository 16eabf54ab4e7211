"""How a manager's process begins: by a script (`BrokerManager(path)`), by `connect(start=True)`, or in the foreground."""

from __future__ import annotations

import logging
import os
import sys
import threading
from pathlib import Path

import orjson

from dq.broker.life import ExitCode, exit_code_of
from dq.broker.manager import Manager
from dq.config import MIB
from dq.errors import DqError


def serve(root: Path, log_level: int = logging.INFO) -> ExitCode:
    """Runs a manager in this process until SIGTERM or Ctrl-C.

    Raises:
        BrokerRunning and others: it cannot start.
    """
    _settle_environment()
    manager = Manager(root, log_level)
    manager.start()
    return manager.run()


def _settle_environment() -> None:
    """What the brokers' processes, started from here, find in their environment."""
    # glibc gives memory over 128 KiB back at once and faults it in again for the next buffer, a page at a time. The
    # brokers' buffers are up to 1 MiB and always needed again.
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(4 * MIB))
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(16 * MIB))
    # Python's tracker of semaphores cleans up after a killed manager, as it should, and need not say so on standard error.
    sys.warnoptions.append("ignore:resource_tracker")


def main(options: str) -> None:
    """The process of a manager that another process started.

    Standard input is a pipe that the starter holds: its end is the starter's. Standard output takes one line of JSON, once the
    manager is ready or has failed.

    Args:
        options: JSON with `root`, `log_level`, `linger` (seconds, or null) and `lifeline` (whether to leave with the starter).
    """
    wish = orjson.loads(options)
    logging.basicConfig(level=wish["log_level"], format="dq %(process)d %(levelname)s %(message)s")
    os.umask(0o077)
    _settle_environment()
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing else may write into the starter's pipe
    manager = Manager(Path(wish["root"]), wish["log_level"], wish["linger"])

    def say(line: dict[str, object]) -> None:
        if not answer.closed:
            answer.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
            answer.close()

    manager.on_ready = lambda: say({"ready": True, "pid": os.getpid()})
    try:
        manager.start()
        if wish["lifeline"]:
            threading.Thread(target=_watch_starter, args=(manager,), daemon=True, name="dq-lifeline").start()
        code = manager.run()
    except (DqError, OSError) as error:
        say({"error": type(error).__name__, "message": str(error)})
        sys.exit(int(exit_code_of(error)))
    failure = manager.failure
    if failure is not None:
        say({"error": failure["error"], "message": failure["message"]})
    sys.exit(int(code))


def _watch_starter(manager: Manager) -> None:
    """The end of standard input is the end of the process that started this one."""
    while os.read(0, 1024):
        pass
    manager.ask_to_stop_from_elsewhere()

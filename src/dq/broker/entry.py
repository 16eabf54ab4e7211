"""How a manager's process begins that another one starts: `BrokerManager(path)` in a script, or `connect(start=True)`."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import orjson

from dq import operator_logs
from dq.broker.life import exit_code_of, open_missing_streams
from dq.broker.manager import Manager
from dq.errors import DqError
from dq.settings.values import settings_of


def main(options: str) -> None:
    """The process of a manager that another process started.

    Standard input is a pipe that the starter holds: its end is the starter's. Standard output takes one line of JSON, once the
    manager is ready or has failed.

    Args:
        options: JSON with `root`, `log_level` and `log_format` (null: as the settings say), `stays` (whether it stays after its
            last client), `linger` (seconds after which it leaves else; null: as the settings say) and `lifeline` (whether it
            leaves with its starter).
    """
    open_missing_streams()
    wish = orjson.loads(options)
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing else may write into the starter's pipe

    def say(line: dict[str, object]) -> None:
        if not answer.closed:
            answer.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
            answer.close()

    try:
        manager = _manager(wish)
        manager.on_ready = lambda: say({"ready": True, "pid": os.getpid()})
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


def _manager(wish: dict[str, Any]) -> Manager:
    """The manager that is wished for. Raises InvalidSetting, LogError: the settings of the directory cannot be read."""
    root = Path(wish["root"])
    settings = settings_of(root)
    logs = operator_logs.wished(settings.values, level=wish["log_level"], form=wish["log_format"])
    operator_logs.begin("manager", operator_logs.of_broker(logs.level, logs.form))
    operator_logs.dump_stacks_at_signal()
    linger = settings["broker_linger"] if wish["linger"] is None else wish["linger"]
    return Manager(root, logs.level, None if wish["stays"] else linger, logs.form, settings)


def _watch_starter(manager: Manager) -> None:
    """The end of standard input is the end of the process that started this one."""
    while os.read(0, 1024):
        pass
    manager.ask_to_stop_from_elsewhere()

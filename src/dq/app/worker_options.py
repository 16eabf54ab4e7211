"""What a worker process is told at its start."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import orjson

from dq.app.importing import origin_of
from dq.operator_logs import handler_in_use

if TYPE_CHECKING:
    from dq.app.application import App
    from dq.app.handler import Handler


def worker_options(app: App, handler: Handler) -> bytes:
    """JSON, for `dq.app.worker.main`.

    Raises:
        NotImportable: a worker cannot import the handler.
    """
    origin = origin_of(handler, app.home)
    root = getattr(getattr(app.engine, "broker", None), "root", None)
    return orjson.dumps(
        {
            "modules": origin.modules,
            "script": origin.script,
            "handler": handler.name,
            "qualname": handler.qualname,
            "sink": app.sink,
            "root": "" if root is None else str(root),
            "argv": sys.argv,
            "logs": _logs(),
        }
    )


def _logs() -> tuple[int, str, int] | None:
    """How this process logs, as the arguments of a `LogWish`; None where it does not."""
    root = logging.getLogger()
    if not root.handlers:
        return None
    handler = handler_in_use()
    return logging.getLogger("dq").getEffectiveLevel(), "auto" if handler is None else handler.form, root.level

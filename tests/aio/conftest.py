"""Async tests without a plugin: a coroutine function runs in a loop of its own, which must end with nothing left in it."""

from __future__ import annotations

import asyncio
import inspect
import threading
from typing import Any

import pytest

from stage import until


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: Any) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    asyncio.run(_alone(pyfuncitem.obj, arguments))
    until(lambda: not busy_threads(), what="no thread of dq.aio is left waiting")
    return True


async def _alone(function: Any, arguments: dict[str, Any]) -> None:
    async with asyncio.timeout(60):
        await function(**arguments)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not others, f"the test leaves {others}"


def busy_threads() -> list[threading.Thread]:
    """The threads of dq.aio that are in a call."""
    from dq.aio.threads import _POOL

    threads = [thread for thread in threading.enumerate() if thread.name == "dq-aio"]
    return threads if len(threads) > len(_POOL._idle) else []

"""The same work in one process and without a queue: what the totals are compared with."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import aiofiles

from dq.demo.examine import Totals, examine_line, examine_source, examine_unreadable, total
from dq.demo.source import Work

_READ_AHEAD = 16
"""Files under way to memory while one is parsed."""


def count_directly(work: Work) -> Totals:
    """Does all tasks here and adds up."""
    return asyncio.run(_count(work))


async def _count(work: Work) -> Totals:
    if "line" in work.payloads[0]:
        return total((examine_line(task["line"], task["text"]) for task in work.payloads), work.figures)
    return total([found async for found in _examined([task["path"] for task in work.payloads])], work.figures)


async def _examined(paths: list[str]) -> AsyncIterator[dict[str, Any]]:
    """The next files are read while one is parsed."""
    ahead: deque[tuple[str, asyncio.Task[bytes]]] = deque()
    for path in paths:
        ahead.append((path, asyncio.create_task(_read(path))))
        if len(ahead) >= _READ_AHEAD:
            yield await _first(ahead)
    while ahead:
        yield await _first(ahead)


async def _first(ahead: deque[tuple[str, asyncio.Task[bytes]]]) -> dict[str, Any]:
    path, content = ahead.popleft()
    try:
        return examine_source(path, await content)
    except OSError as error:
        return examine_unreadable(path, error)


async def _read(path: str) -> bytes:
    async with aiofiles.open(path, "rb") as file:
        content: bytes = await file.read()
        return content

"""The asyncio face of dq: the names of `dq`, used by `async with`, over the same client core."""

from __future__ import annotations

from dq.aio.consumer import Consumer
from dq.aio.publisher import Publisher

__all__ = ["Consumer", "Publisher"]

"""What all objects of `dq.aio` share: they are made by `async with`, over the same object of the sync face."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

from dq.aio.threads import detached, in_thread
from dq.errors import UsageError


class Closing(Protocol):
    """An object of the sync face."""

    def close(self) -> None:
        """Flushes and closes; safe twice."""


Made = TypeVar("Made", bound=Closing)


class Face(Generic[Made]):
    """Used by `async with`: entering connects, leaving flushes and closes. For one event loop.

    Args:
        make: makes the object of the sync face; called in a thread.
    """

    _made: Made | None

    def __init__(self, make: Callable[[], Made]) -> None:
        self._make, self._made = make, None

    @property
    def _it(self) -> Made:
        if self._made is None:
            name = type(self).__name__
            raise UsageError(f"this {name} is not connected yet: use it by `async with {name}(...) as it:`")
        return self._made

    def _wake(self) -> None:
        """Has the threads that wait in it look whether they are asked to quit."""
        link = getattr(self._made, "_link", None)
        if link is not None:
            link.interrupt()

    async def __aenter__(self) -> Self:
        if self._made is None:
            self._made = await in_thread(self._make, late=_close)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Flushes and closes; safe twice. It comes to its end also where the one who waits for it is cancelled."""
        if self._made is not None:
            await in_thread(self._made.close)

    def __repr__(self) -> str:
        return f"<aio {self._made!r}>" if self._made is not None else f"<aio.{type(self).__name__}, not connected>"


class Twin(Generic[Made]):
    """The asyncio twin of an object that blocks, which is there already.

    Args:
        blocking: that object.
    """

    def __init__(self, blocking: Made) -> None:
        self._blocking = blocking

    def sync(self) -> Made:
        """The same object with methods that block, for threads."""
        return self._blocking

    async def close(self) -> None:
        """Leaves; safe twice."""
        await in_thread(self._blocking.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


def _close(made: Any) -> None:
    detached(made.close)

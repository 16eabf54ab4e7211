"""The one error of the demonstration's own."""

from __future__ import annotations

from dq.errors import DqError


class DemoFailed(DqError):
    """Raised when the demonstration cannot go on: nothing to do, a process that ended by itself, or nothing that moves."""

"""`TaskIn`: what a publisher hands in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class TaskIn(NamedTuple):
    """A payload with what else a record may carry; `publish_many` takes these beside bare payloads.

    Attributes:
        payload: a JSON value, or bytes.
        key: chooses the bucket; records of one key keep their order.
        topic: an optional label.
        name: an optional name of what happened.
        headers: text by name.
    """

    payload: Any
    key: str | None = None
    topic: str | None = None
    name: str = ""
    headers: Mapping[str, str] | None = None

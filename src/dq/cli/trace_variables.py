"""The trace context of OpenTelemetry in environment variables, as programs hand it to those that they run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_NAMES: Final = {"traceparent": "TRACEPARENT", "tracestate": "TRACESTATE", "baggage": "BAGGAGE"}
_PARENT: Final = re.compile("[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[\x21-\x7e]{1,64})?")
_MORE: Final = re.compile("[\x20-\x7e]{1,8192}")


def headers_of(variables: Mapping[str, str]) -> dict[str, str]:
    """The headers of a record that is published within the trace that the environment names; none where it names none."""
    return _taken({header: variables.get(name, "") for header, name in _NAMES.items()})


def variables_of(headers: Mapping[str, str]) -> dict[str, str]:
    """What a program is told of the trace of the record that it works on: empty texts where it has none, since the variables of
    this process are of another one."""
    return dict.fromkeys(_NAMES.values(), "") | {_NAMES[name]: value for name, value in _taken(headers).items()}


def _taken(given: Mapping[str, str]) -> dict[str, str]:
    """What of it is whole: without a `traceparent` nothing; and no more than plain text, as an environment can hold it."""
    if not _PARENT.fullmatch(given.get("traceparent", "")):
        return {}
    found = {"traceparent": given["traceparent"]}
    return found | {name: given[name] for name in ("tracestate", "baggage") if _MORE.fullmatch(given.get(name, ""))}

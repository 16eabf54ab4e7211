"""What an operator's log may say of an error and of what it concerns: never a payload, a key or a header.

The text of an error that a user's code raised may have any of these in it, so it stays where the record is: in `last_error`, in
the dead letter. A log names its type, and the place in the code.
"""

from __future__ import annotations

import os
import re
import traceback
from typing import Any, Final

from dq.errors import DqError, NotImportable
from dq.model.shown import one_line

FACTS: Final = "dq"
"""The attribute of a `logging.LogRecord` that has the facts of a line."""
_CHARS_MAX: Final = 1_500
_FRAMES_MAX: Final = 40
# Errors of dq's whose text may have what a user gave in it: a path within a payload, the error of a class of the user's.
_HINTS: Final = {
    "BackendFailed": "a backend class of yours failed; whoever published or consumes was told how",
    "InvalidPayload": "what was to be published cannot be written as JSON",
}
# And what of other texts is left out: that of a backend class's error after its type, and that of a listener's.
_FOREIGN: Final = (
    (re.compile(r"(the backend class \S+ failed to [^:]+: \w+): .*", re.DOTALL), r"\1"),
    (re.compile(r", the last time with .*", re.DOTALL), ""),
)


def about(error: BaseException | str | None = None, **facts: object) -> dict[str, Any]:
    """For `extra=` of a log call: what the line is about, as fields of their own in logs of JSON.

    Args:
        error: the error, or the name of its type.
        facts: names and numbers: `stream`, `bucket`, `sink`, `handler`, `task`, `attempt`, `client`, `client_pid`, `broker`.
    """
    if error is not None:
        facts["error"] = error if isinstance(error, str) else type(error).__name__
    return {FACTS: facts}


def words_of(error: BaseException | str) -> str:
    """What a log says of an error: the words of dq's own errors and of the system's; of any other one its type.

    Args:
        error: the error; or its text, where it is known to be dq's own.
    """
    if isinstance(error, (str, DqError)):
        return words_told(type(error).__name__, str(error))
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return one_line(f"{where}{error.strerror}")[:_CHARS_MAX]
    return _name(error)


def words_told(kind: str, message: str) -> str:
    """The same of an error that came by an event, as the name of its type and its text."""
    kept = message
    for foreign_part, instead in _FOREIGN:
        kept = foreign_part.sub(instead, kept)
    if kept == message and kind in _HINTS:
        return f"{kind}: {_HINTS[kind]}"
    return one_line(kept)[:_CHARS_MAX]


def foreign(error: BaseException) -> str:
    """The same of an error that code of the user's may have raised: of the system's too it says the type alone."""
    return words_of(error) if isinstance(error, DqError) else _name(error)


def place_of(error: BaseException) -> str:
    """The type of an error and where it was raised: `ValueError at tasks.py:31 in send`."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return _name(error)
    last = frames[-1]
    return one_line(f"{_name(error)} at {os.path.basename(last.filename)}:{last.lineno} in {last.name}")


def frames_of(error: BaseException) -> str:
    """A traceback without what is in the errors: types, files, lines, functions; the causes first."""
    chain: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in chain and len(chain) < _FRAMES_MAX:
        chain.append(at)
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)
    lines = []
    for each in reversed(chain):
        frames = traceback.extract_tb(each.__traceback__)[-_FRAMES_MAX:]
        lines += [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
        lines.append(words_of(each) if isinstance(each, NotImportable) else _name(each))
    return "\n".join(map(one_line, lines))


def _name(error: BaseException) -> str:
    return one_line(type(error).__name__)

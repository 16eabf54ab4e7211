"""What may be the name of a stream, a sink, a topic or a client."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

from dq.errors import InvalidName

# ASCII alone: look-alikes and normal forms of the same letter would be two names of one stream.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
DEAD_LETTER_SUFFIX = "-dlq"
LATER_SUFFIX = "-later"
RESERVED_SUFFIXES = (DEAD_LETTER_SUFFIX, LATER_SUFFIX)


def check_name(kind: str, name: object) -> str:
    """Returns `name` if it is a safe file name; `kind` ("stream", "sink") is for the message.

    Raises:
        InvalidName: it is anything else.
    """
    if isinstance(name, str) and _NAME.fullmatch(name) and ".." not in name:
        return name
    raise InvalidName(
        f"{name!r} cannot name a {kind}: use 1 to 128 of A-Z a-z 0-9 . _ -, beginning with a letter, a digit or _, "
        "without two dots in a row"
    )


def check_new_stream(name: object) -> str:
    """As `check_name`, and refuses the names that dq makes streams of itself.

    Raises:
        InvalidName: the name is unsafe or reserved.
    """
    checked = check_name("stream", name)
    for suffix in RESERVED_SUFFIXES:
        if checked.endswith(suffix):
            raise InvalidName(f"{checked!r} cannot name a stream of yours: dq makes the streams that end in {suffix!r}")
    return checked


def check_client_id(name: str) -> str:
    """As `check_name`, for the id that a publisher or consumer gives itself. It has no colon, as those of dq's own have.

    Raises:
        InvalidName: it is anything else.
    """
    return check_name("client", name)


def dead_letter_stream(stream: str) -> str:
    """The stream that takes the dead letters of `stream`."""
    return stream + DEAD_LETTER_SUFFIX


def later_stream(stream: str) -> str:
    """The stream in which the delayed records of `stream` wait for their time."""
    return stream + LATER_SUFFIX


def base_stream(name: str) -> str | None:
    """The stream for which dq keeps the one of this name; None where it is a stream of the user's."""
    for suffix in RESERVED_SUFFIXES:
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return None


def near_names(name: str, known: Iterable[str], kind: str) -> str:
    """A sentence for who asked for a name that there is not."""
    names = list(known)
    near = get_close_matches(name, names, n=3)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else f"there are {len(names)} {kind}."

"""What a batch says of all its records, beside what a batch header always has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dq.errors import ProtocolError
from dq.model.names import check_name
from dq.model.shown import outlined, shown

About = Mapping[str, Any] | None
"""What a batch header says of all its records, by name; None for most batches:

- `for`: the one sink it is for; every other one settles it unopened, and readers pass over it.
- `attempts`, `error`: attempts that its records have burned in that sink before they came here, and the last error.
- `once`: the key under which its one record is stored no second time.
- `expires`: wall time from which the first of its records has expired; `expired`: from which all have, where all of them do.
"""

ERROR_CHARS_MAX: Final = 1_000
ONCE_CHARS_MAX: Final = 256
_FORMS: Final[dict[str, tuple[type, ...]]] = {
    "for": (str,),
    "attempts": (int,),
    "error": (str,),
    "once": (str,),
    "expires": (int, float),
    "expired": (int, float),
}


def is_counted(about: About) -> bool:
    """Whether a batch has a number in its publisher's sequence. One with a key for `once` has none: by its key it is known."""
    return about is None or "once" not in about


def check_about(about: Mapping[str, Any], count: int) -> dict[str, Any]:
    """What a client or a broker says of a batch of `count` records, looked at.

    Raises:
        ProtocolError: it says what no batch can.
        InvalidName: it is for a sink that cannot be.
    """
    for name, value in about.items():
        kinds = _FORMS.get(name)
        if kinds is None or type(value) not in kinds:
            raise ProtocolError(f"a batch cannot say {shown(name)} = {outlined(value)}")
    if "for" in about:
        check_name("sink", about["for"])
    elif "attempts" in about or "error" in about:
        raise ProtocolError("a batch that is for no sink has burned no attempts")
    if not 0 <= about.get("attempts", 0) <= 1 << 31:
        raise ProtocolError(f"no record has burned {shown(about['attempts'])} attempts")
    if len(about.get("error", "")) > ERROR_CHARS_MAX:
        raise ProtocolError(f"an error of {len(about['error'])} characters; {ERROR_CHARS_MAX} are the most")
    if "once" in about and (count != 1 or not 1 <= len(about["once"]) <= ONCE_CHARS_MAX):
        raise ProtocolError(f"a key for once has 1 to {ONCE_CHARS_MAX} characters, and stands in a batch of one record")
    return dict(about)

"""Where a stream stood when an epoch of it began: by this a sink learns that the stream lost its end meanwhile."""

from __future__ import annotations

from typing import NamedTuple


class EpochStart(NamedTuple):
    """The beginning of an epoch, after an unclean start or a repair.

    Attributes:
        epoch: its number.
        ends: by bucket, the offset at which the log ended then; what lay beyond is gone.
        accepted: a person has accepted that, by a repair.
    """

    epoch: int
    ends: tuple[int, ...]
    accepted: bool = False


def later_starts(starts: tuple[EpochStart, ...], new: EpochStart, keep: int = 32) -> tuple[EpochStart, ...]:
    """`starts` and a new one, without those that say nothing any more: where no bucket ended earlier than it does now, whoever
    is behind both has to go back to the new one's ends anyway.
    """

    def tells(old: EpochStart) -> bool:
        as_low = any(end <= later for end, later in zip(old.ends, new.ends, strict=True))
        lower = any(end < later for end, later in zip(old.ends, new.ends, strict=True))
        return lower or (as_low and old.accepted and not new.accepted)

    return (*[old for old in starts if tells(old)][-(keep - 1) :], new)

"""Short words for spoiling a segment on the real disk, and for what is to become of the log then."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from damage_bench import parsed
from log_rig import Rig, records

from dq.errors import Damaged
from dq.log.bucket_log import BucketLog

LAST, MIDDLE, FIRST = -1, 1, 0
Change = Callable[[bytes], bytes]


def refused(rig: Rig, match: str = ".") -> str:
    """Opening is refused as damage, and not a byte has changed."""
    before = {path: path.read_bytes() for path in rig.segments()}
    with pytest.raises(Damaged, match=match) as error:
        rig.open()
    assert {path: path.read_bytes() for path in rig.segments()} == before
    assert rig.kept_away() == []
    return str(error.value)


def spoil(path: Path, change: Change) -> None:
    path.write_bytes(change(path.read_bytes()))


def new_file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def begins(path: Path) -> list[int]:
    """Where the batches of a segment begin, and its end."""
    segment = parsed(int(path.stem), path.read_bytes())
    return [*(batch.begin for batch in segment.batches), len(segment.content)]


def goes_on(rig: Rig, log: BucketLog) -> None:
    """What was mended takes records, and opens again with nothing left to do."""
    end = log.end.offset
    rig.fill(log, 2)
    log.close()
    again = rig.open()
    assert (again.end.offset, again.report.torn_bytes, again.report.quarantined) == (end + 4, 0, None)
    assert rig.read_all(again.end) == records(0, end + 4)
    again.close()

"""The search for a time in a bucket's log: by bisection over the headers, a few dozen reads in a log of any length.

A batch header has the broker's wall clock at its commit, a record its publisher's at `publish()`, which is earlier. So the
first batch that was committed at or after an instant is found, and from there on the first record published at or after it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import orjson

from dq.config import KIB
from dq.log.files import Files, mapped
from dq.log.format import HEADER_BYTES_MAX, Malformed
from dq.log.layout import segment_path
from dq.log.recovery import damaged, read_segment_header
from dq.log.scan import Seen
from dq.log.storage import End

_PROBE_BYTES = 64 * KIB
"""Read at a place to find a header: it has some of a batch of usual size, and is read in 20 us."""
_JUMP_SECONDS = 3600.0
_ROUNDED_SECONDS = 0.001
"""A header has its time in whole milliseconds: by so much it may say less than the time at which a record was published."""
_HEADER = re.compile(rb'\n(\{"batch":[^\n]*)\n')  # no record line begins like this


def place_before(files: Files, directory: Path, segments: Sequence[int], end: End, at: float) -> tuple[int, int, int]:
    """A place in the log with everything committed at or after `at` behind it, and little else.

    Args:
        segments: first offsets of the segments, ascending; at least one.

    Returns:
        The segment, the offset of its next batch and the position of that in bytes; position 0 is the segment's begin.

    Raises:
        Damaged: a segment's header. LogError: the disk refused to read. RecordsTrimmed, FileNotFoundError: it is gone.
    """
    at -= _ROUNDED_SECONDS
    low, high = 0, len(segments)  # segments below `low` begin before `at`, those from `high` on do not
    while low < high:
        middle = (low + high) // 2
        if _begin_of(files, segment_path(directory, segments[middle])) < at:
            low = middle + 1
        else:
            high = middle
    segment = segments[max(low - 1, 0)]
    path = segment_path(directory, segment)
    fd = files.open_read(path)
    try:
        with mapped(path, "read"):
            size = end.position if segment == end.segment else files.size(fd)
            offset, position = _bisect(files, fd, size, at)
    finally:
        files.close(fd)
    return (segment, offset, position) if position else (segment, segment, 0)


def _begin_of(files: Files, path: Path) -> float:
    """When a segment was begun."""
    fd = files.open_read(path)
    try:
        with mapped(path, "read"):
            return read_segment_header(files, fd, files.size(fd), path)[0].at
    except Malformed as error:
        raise damaged(path, 0, f"the segment header is not what was written: {error}") from error
    finally:
        files.close(fd)


def _bisect(files: Files, fd: int, size: int, at: float) -> tuple[int, int]:
    """The offset and position of a batch that is older than `at`, the last but for some that are near; (0, 0) if none is."""
    found, low, high = (0, 0), 0, size
    while high - low > _PROBE_BYTES:
        middle = (low + high) // 2
        header = _header_after(files, fd, middle, high)
        if header is None or header[2] >= at:
            high = middle
        else:
            found = header[0], header[1]
            low = header[1]
    return found


def _header_after(files: Files, fd: int, position: int, stop: int) -> tuple[int, int, float] | None:
    """Offset, position and time of the first batch that begins behind `position` and before `stop`; None if none does."""
    rest = b""
    while position < stop:
        chunk = rest + files.pread(fd, min(_PROBE_BYTES, stop - position), position)
        for match in _HEADER.finditer(chunk):
            try:
                fields = orjson.loads(match[1])
                first, time = fields["batch"], fields["at"]
            except (orjson.JSONDecodeError, KeyError):
                continue
            if type(first) is int and type(time) is float:
                return first, position - len(rest) + match.start() + 1, time
        position += len(chunk) - len(rest)
        if len(chunk) == len(rest):
            return None
        rest = chunk[-HEADER_BYTES_MAX:]
    return None


def first_since(chunk: memoryview, batches: Sequence[Seen], at: float) -> tuple[int, bool]:
    """The first record of these batches that was published at or after `at`, and whether its own time says so.

    Where that of none does, it is the first record of a batch that was committed then; (-1, False) where none was.
    """
    found, since = -1, at - _ROUNDED_SECONDS
    older = max((place for place, batch in enumerate(batches) if batch[7] < since), default=-1)
    for place, batch in enumerate(batches):
        if batch[7] < since or (batch[7] > at + _JUMP_SECONDS and place < older):
            continue  # the latter: the clock was wrong by more than an hour, and was set right again
        if found < 0:
            found = batch[0]
        lines = BytesIO(chunk[batch[2] : batch[3]]).readlines()
        if _since(lines[-1], at, batch[7]):
            # The records of a batch stand in the order in which they were published.
            return batch[0] + next(n for n, line in enumerate(lines) if _since(line, at, batch[7])), True
    return found, False


def _since(line: bytes, at: float, committed: float) -> bool:
    """Whether a record was published at or after `at`; of one that cannot say, the batch's time counts."""
    try:
        published = orjson.loads(line)["at"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        published = committed
    return (published if type(published) in (int, float) else committed) >= at

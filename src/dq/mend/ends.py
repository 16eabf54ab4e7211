"""Where the log of a bucket ends, found without changing a byte, whether it was left in order, torn, or is damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from dq.config import LIMITS, MIB
from dq.errors import Damaged, LogError
from dq.log.backend import End
from dq.log.files import Files, mapped
from dq.log.format import COUNT_MAX, Malformed
from dq.log.layout import Layout, segment_path, segments_among
from dq.log.memory import place_of
from dq.log.recovery import clean_end
from dq.log.sealed import read_sealed
from dq.log.stream_file import StreamDescription
from dq.log.unserved import end_of
from dq.model.settings import MEMORY

_CLEAN_MARK_BYTES_MAX = 1024 * MIB
Marks = dict[int, dict[str, Any]]


class BucketEnd(NamedTuple):
    """What was found.

    Attributes:
        directory: where the segments are.
        segments: their first offsets.
        end: of what is whole; of a damaged log the end of its file, so that reading it up to there ends with what is wrong.
        torn_bytes: behind it, of a batch that was not confirmed, or is just being written.
        damage: what is wrong; None where nothing is.
    """

    directory: Path
    segments: list[int]
    end: End
    torn_bytes: int
    damage: Damaged | None

    def path(self, segment: int) -> Path:
        """The file of a segment."""
        return segment_path(self.directory, segment)


def find_end(
    files: Files, root: Path, found: StreamDescription, bucket: int, marks: Marks, look: Callable[[], End] | None = None
) -> BucketEnd:
    """Finds the end of a bucket.

    Args:
        marks: what `clean_marks` gave.
        look: finds how far it is whole, where another backend than dq's keeps it.

    Raises:
        LogError: it cannot be read.
    """
    directory = Layout(root).bucket(found.name, bucket)
    if found.settings.backend == MEMORY:
        directory = place_of(root) / found.name / str(bucket)
    segments, mark = _segments(files, directory), marks.get(bucket)
    clean = None if mark is None else clean_end(files, directory, mark, LIMITS)
    if clean is not None:
        return BucketEnd(directory, segments, clean.end, 0, None)
    damage = None
    try:
        end = look() if look is not None else end_of(files, directory, LIMITS)
    except Damaged as error:
        damage = error
    if not segments:
        return BucketEnd(directory, segments, End(0, 0, 0) if damage is not None else end, 0, damage)
    size = files.state(segment_path(directory, segments[-1])).st_size
    if damage is not None:
        return BucketEnd(directory, segments, End(COUNT_MAX, segments[-1], size), 0, damage)
    torn = size - end.position if end.segment == segments[-1] else size
    return BucketEnd(directory, segments, end, max(torn, 0), None)


def clean_marks(files: Files, root: Path, found: StreamDescription) -> Marks:
    """What the last clean stop left of a stream, by bucket; nothing where a broker has started since. It is a hint."""
    try:
        told = read_sealed(files, Layout(root).clean_mark, _CLEAN_MARK_BYTES_MAX)["streams"][found.name]
        return dict(enumerate(told["buckets"])) if told["uuid"] == found.uuid else {}
    except (OSError, LogError, Malformed, KeyError, TypeError):
        return {}


def _segments(files: Files, directory: Path) -> list[int]:
    try:
        with mapped(directory, "list"):
            return segments_among(files.list_directory(directory))
    except LogError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return []
        raise

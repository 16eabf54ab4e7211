"""The end of a log that no broker serves, found without changing a byte: how a reader reads a directory by itself.

What is whole counts, as it would for the next start of a broker. Nothing is cut, moved or judged beyond that.
"""

from __future__ import annotations

from pathlib import Path

from dq.config import Limits
from dq.errors import LogError, SyncFailed
from dq.log.files import Files, mapped
from dq.log.format import Malformed
from dq.log.layout import segment_path, segments_among
from dq.log.recovery import damaged, read_segment_header
from dq.log.scan import Walk, confirmed_after, scan
from dq.log.storage import End


def end_of(files: Files, directory: Path, limits: Limits) -> End:
    """How far the log in `directory` is whole.

    The last segment is flushed first, as at a start: what a killed process wrote may not be on disk, and is not to be shown
    before it is. What is written after that look is not taken in.

    Raises:
        Damaged: a later part of it was confirmed. LogError: the disk refused to read. SyncFailed: it refused to flush.
    """
    try:
        with mapped(directory, "list"):
            segments = segments_among(files.list_directory(directory))
    except LogError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return End(0, 0, 0)
        raise
    for segment in reversed(segments):
        end = _end_in(files, segment_path(directory, segment), segment, limits)
        if end is not None:
            return end
    return End(0, 0, 0)


def _end_in(files: Files, path: Path, segment: int, limits: Limits) -> End | None:
    """The end in one segment; None where it was only being begun."""
    walk = Walk(segment, None, max(limits.kept_bytes_max, limits.batch_bytes_max))
    with mapped(path, "read"):
        fd = files.open_read(path)
        try:
            size = files.size(fd)
            _flush(files, fd, path)
            try:
                header, position = read_segment_header(files, fd, size, path)
            except Malformed:
                return None
            walk.crc = f"{header.prev:08x}"
            good_end, broken = scan(files, fd, path, position, size, walk, None)
            if broken is not None:
                tail = files.pread(fd, size - good_end, good_end)
                if confirmed_after(tail, walk.offset, walk.size_max) is not None:
                    raise damaged(path, good_end, broken.why)
        finally:
            files.close(fd)
    return End(walk.offset, segment, good_end)


def _flush(files: Files, fd: int, path: Path) -> None:
    try:
        files.fdatasync(fd)
    except OSError as error:
        raise SyncFailed(f"{path}: the disk did not confirm a flush ({error.strerror}); what it has is not known") from error

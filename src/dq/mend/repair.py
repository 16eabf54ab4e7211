"""`repair`: what a person decides about a damaged log. What is taken out of it is kept in quarantine and noted there."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import orjson

from dq.errors import InvalidSetting
from dq.log.files import Files, mapped
from dq.log.format import Malformed
from dq.log.layout import Layout, segment_path, segments_among
from dq.log.quarantine import Quarantine
from dq.log.recovery import damaged, read_segment_header
from dq.log.scan import Walk, scan
from dq.log.stream_file import StreamDescription, read_stream
from dq.mend.look import LookingFiles, look_at_bucket
from dq.mend.target import Target, target_of, unserved

_NO_END = 1 << 62  # of a bucket that a repair did not touch: no sink goes back for it
AUDIT = "repairs.jsonl"
"""In the quarantine directory: one line for each repair."""


@dataclass(frozen=True, slots=True)
class Repair:
    """What a repair did, or with `dry_run` would do.

    Attributes:
        log: as `verify` names it.
        ends: offset at which it ends now, of a whole stream each bucket; of a sink the number of its next note.
        cut_bytes: taken out of the log.
        kept: where they are.
        dry_run: nothing was done.
        accepted: the sinks may go back to where the stream ends.
    """

    log: str
    ends: list[int]
    cut_bytes: int
    kept: list[str]
    dry_run: bool
    accepted: bool


def truncate(segment: Path | str, position: int, *, dry_run: bool = False) -> Repair:
    """Ends a log at a byte of one of its segments: that byte and all after it, newer segments too, go to quarantine.

    Of a stream the sinks that were given records beyond go back to its new end; of a sink what is cut is forgotten, and
    delivered again. Doing it once more changes nothing.

    Args:
        segment: the segment's file.
        position: where the log is to end: 0, or the end of a whole batch.
        dry_run: only say what would be done.

    Raises:
        InvalidSetting: no segment, or not the end of a whole batch; the message says where the nearest one before is.
        BrokerRunning: a broker serves the directory. LogError: the disk refused.
    """
    target = target_of(segment)
    if target.segment is None:
        raise InvalidSetting(f"{segment} is not a segment: name the file that the log is to end in")
    with unserved(target.root):
        return _truncate(Files(), target, target.segment, position, dry_run=dry_run)


def accept_loss(stream: Path | str, *, dry_run: bool = False) -> Repair:
    """Lets the sinks of a stream that lost its end go back to where it ends: what they were given beyond is gone.

    Args:
        stream: the stream's directory.
        dry_run: only say what would be done.

    Raises:
        InvalidSetting: no stream. BrokerRunning: a broker serves the directory. Damaged, LogError: the stream cannot be read;
        mend that first.
    """
    target = target_of(stream)
    if target.kind != "stream":
        raise InvalidSetting(f"{stream} is a sink: a loss is accepted for a stream")
    files = Files()
    with unserved(target.root):
        found = _described(files, target)
        looking = LookingFiles()
        ends = [look_at_bucket(looking, target.root, found, bucket).end.offset for bucket in range(found.settings.bucket_count)]
        done = Repair(f"streams/{target.name}", ends, 0, [], dry_run, accepted=True)
        if not dry_run:
            # Also of earlier starts: it may have grown again since it lost its end.
            earlier = tuple(start._replace(accepted=True) for start in found.starts)
            _write_description(files, target, replace(found, starts=earlier).next_epoch(ends, accepted=True))
            _note(files, target, done)
    return done


def _truncate(files: Files, target: Target, segment: int, position: int, *, dry_run: bool) -> Repair:
    directory, quarantine = target.directory, Quarantine(files, Layout(target.root).quarantine)
    with mapped(directory, "read"):
        firsts = segments_among(files.list_directory(directory))
        newer = [first for first in firsts if first > segment]
        sizes = {first: files.state(segment_path(directory, first)).st_size for first in (segment, *newer)}
    end = _end_at(files, segment_path(directory, segment), segment, position, target)
    cut = sizes[segment] - position + sum(sizes[first] for first in newer)
    done = Repair(target.log, [end], cut, [], dry_run, accepted=target.kind == "stream")
    if dry_run or not cut:
        return done
    origin = target.origin
    if target.kind == "stream":  # first: a sink that is ahead may go back from now on, whatever comes between
        _begin_epoch(files, target, end)
    # The newest first, so that at every moment what is left is a log, longer than wished.
    for first in [*reversed(newer), *([segment] if not position else [])]:
        done.kept.append(str(quarantine.take_file(f"{origin}.{first}.0", segment_path(directory, first))))
    if position:
        done.kept.append(_cut(files, quarantine, f"{origin}.{segment}.{position}", segment_path(directory, segment), position))
    _note(files, target, done)
    return done


def _end_at(files: Files, path: Path, first: int, position: int, target: Target) -> int:
    """The offset at which a segment ends if it is cut at `position`. Raises InvalidSetting."""
    if not position:
        return first
    with mapped(path, "read"):
        fd = files.open_read(path)
        try:
            size = files.size(fd)
            header, length = read_segment_header(files, fd, size, path)
            walk = Walk(header.first, f"{header.prev:08x}", target.batch_bytes_max)
            whole = length
            if length <= position <= size:
                whole, _ = scan(files, fd, path, length, position, walk, None)
        except Malformed as error:
            raise damaged(path, 0, f"the segment header is not what was written: {error}") from error
        finally:
            files.close(fd)
    if whole != position:
        raise InvalidSetting(
            f"{path}: byte {position} is not the end of a whole batch; the last one before it is byte "
            f"{whole if whole > length else 0}"
        )
    return walk.offset


def _cut(files: Files, quarantine: Quarantine, origin: str, path: Path, position: int) -> str:
    with mapped(path, "cut"):
        fd = files.open_write(path)
        try:
            kept = quarantine.keep_bytes(origin, files.pread(fd, files.size(fd) - position, position))
            files.truncate(fd, position)
            files.fdatasync(fd)
        finally:
            files.close(fd)
    return str(kept)


# --- the stream's own file -------------------------------------------------------------------------------------------


def _described(files: Files, target: Target) -> StreamDescription:
    try:
        return read_stream(files, target.root, target.name)
    except FileNotFoundError as error:
        raise InvalidSetting(f"there is no stream in {target.directory}: {error.filename} is missing") from error


def _begin_epoch(files: Files, target: Target, end: int) -> None:
    found = _described(files, target)
    ends = [end if bucket == target.bucket else _NO_END for bucket in range(found.settings.bucket_count)]
    _write_description(files, target, found.next_epoch(ends, accepted=True))


def _write_description(files: Files, target: Target, described: StreamDescription) -> None:
    path = Layout(target.root).stream_file(target.name)
    with mapped(path, "write"):
        files.write_atomically(path, described.encode())


def _note(files: Files, target: Target, done: Repair) -> None:
    """One line in the record of repairs, on disk."""
    path = Layout(target.root).quarantine / AUDIT
    line = orjson.dumps({"at": time.time(), **asdict(done)}, option=orjson.OPT_APPEND_NEWLINE)
    with mapped(path, "write"):
        files.make_directory(path.parent)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, line)
            files.fdatasync(fd)
        finally:
            files.close(fd)
        files.sync_directory(path.parent)

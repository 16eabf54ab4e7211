"""A file that is there as a whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from dq.errors import InvalidSetting

PARTIAL = ".partial"


class NewFile:
    """What is written now and put in place at the end. Raises OSError, also where the disk does not take it.

    Attributes:
        path: where it goes.
        out: what is to be written to.
    """

    def __init__(self, path: Path, out: IO[bytes], temporary: Path, *, force: bool) -> None:
        self.path, self.out, self._temporary, self._force = path, out, temporary, force

    def finish(self) -> None:
        """All is written: flushes it and puts it in place. Raises InvalidSetting where a file has come to be there."""
        self._put(self.path, force=self._force)

    def keep_partial(self) -> Path:
        """Not all could be written: puts what there is beside the place, and returns where."""
        partial = self.path.with_name(self.path.name + PARTIAL)
        self._put(partial, force=True)
        return partial

    def _put(self, path: Path, *, force: bool) -> None:
        self.out.flush()
        os.fsync(self.out.fileno())
        if force:
            os.replace(self._temporary, path)
        else:
            try:
                os.link(self._temporary, path)  # as a rename, that replaces nothing
            except FileExistsError:
                raise _taken(path) from None
            except OSError:  # a file system without links: somebody could be quicker here
                if os.path.lexists(path):
                    raise _taken(path) from None
                os.rename(self._temporary, path)
            else:
                os.unlink(self._temporary)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


@contextlib.contextmanager
def new_file(path: Path, *, force: bool) -> Iterator[NewFile]:
    """A new file at `path`, for this user alone, as the data directory is; what is there is replaced with `force`.

    What was not put in place is gone afterwards.

    Raises:
        InvalidSetting: there is a file. OSError: it cannot be made.
    """
    if not force and os.path.lexists(path):
        raise _taken(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb", 1 << 20) as out:
            yield NewFile(path, out, temporary, force=force)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _taken(path: Path) -> InvalidSetting:
    return InvalidSetting(f"{path} is there already: choose another name, or say --force")

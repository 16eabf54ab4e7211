"""Where recovery puts what it takes out of a log. dq never deletes anything from here."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from dq.log.files import Files, mapped


class Quarantine:
    """Keeps bytes and files under names that say where they came from: `<log>.<segment>.<position>.<n>.torn`."""

    def __init__(self, files: Files, directory: Path) -> None:
        self._files, self._directory = files, directory

    def keep_bytes(self, origin: str, content: bytes) -> Path:
        """A flushed copy of `content`. Raises LogError."""
        self._make()
        with mapped(self._directory, "write to"):
            path = self._free(origin)
            self._files.write_new(path, content)
            self._files.sync_directory(self._directory)
        return path

    def take_file(self, origin: str, path: Path) -> Path:
        """Moves a file, or a directory with what is in it. Raises LogError."""
        self._make()
        with mapped(path, "move"):
            target = self._free(origin)
            self._files.rename(path, target)
            # The new name first: a power cut between the two leaves the file under both names, never under none.
            self._files.sync_directory(self._directory)
            self._files.sync_directory(path.parent)
        return target

    def _make(self) -> None:
        with mapped(self._directory, "make"):
            self._files.make_directory(self._directory)
            self._files.sync_directory(self._directory.parent)

    def _free(self, origin: str) -> Path:
        taken = set(self._files.list_directory(self._directory))
        return next(self._directory / name for n in count() if (name := f"{origin}.{n}.torn") not in taken)

"""The file `dq.toml` of a data directory: read whole, its keys with the lines on which they stand."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any, Final, NamedTuple

from dq.errors import InvalidSetting, LogError
from dq.settings.table import FILE

_BYTES_MAX: Final = 65_536


class Given(NamedTuple):
    """What a key has, and where it stands, as `dq.toml:3`."""

    value: object
    source: str


_Mark = tuple[int, int, int, int]
_last: tuple[Path, _Mark, dict[str, Given]] | None = None


def read_file(root: Path) -> dict[str, Given]:
    """What stands in the file of a data directory, unchecked; nothing where there is none.

    A process reads it again only when it has changed: each new client asks for it.

    Raises:
        InvalidSetting: it is no TOML; the message has the line. LogError: it cannot be read.
    """
    global _last
    path = root / FILE
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise _unreadable(path, error) from error
    mark = (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
    last = _last
    if last is not None and last[:2] == (path, mark):
        return last[2]
    given = _parsed(path, _text_of(path))
    _last = path, mark, given
    return given


def _text_of(path: Path) -> str:
    try:
        # Without O_NONBLOCK a pipe of that name would be waited for.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InvalidSetting(f"{path} is no file: put a file of settings there, or nothing")
            content = file.read(_BYTES_MAX + 1)
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(content) > _BYTES_MAX:
        raise InvalidSetting(f"{path} has over {_BYTES_MAX:,} bytes: it is no file of settings")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InvalidSetting(f"{path}, line {line}, is not UTF-8: write it as UTF-8") from error


def _unreadable(path: Path, error: OSError) -> LogError:
    return LogError(f"cannot read {path}: {error.strerror}")


def _parsed(path: Path, text: str) -> dict[str, Given]:
    # It takes 6 ms to import, and few directories have such a file.
    import tomllib

    try:
        values: dict[str, Any] = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        said = str(error).replace("at end of document", f"at line {max(len(text.splitlines()), 1)}, where it ends")
        raise InvalidSetting(
            f'{path} cannot be read: {said}. A line of it is: name = "value", as in max_age = "7d" or buckets = 4'
        ) from error
    return {name: Given(value, _place(text, name)) for name, value in values.items()}


def _place(text: str, name: str) -> str:
    """Where a key stands. tomllib does not tell; there is one line that begins with it."""
    found = re.search(rf"""^[ \t]*\[*[ \t]*["']?{re.escape(name)}["']?[ \t]*[=.\]]""", text, re.M)
    return FILE if found is None else f"{FILE}:{text.count(chr(10), 0, found.start()) + 1}"

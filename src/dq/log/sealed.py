"""Small files of one sealed line, written whole: `stream.json`, `gone.json`, `sink.json`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from dq.config import MIB
from dq.errors import Damaged, InvalidSetting, NewerFormat
from dq.log.files import Files
from dq.log.format import Malformed, check_format, json_object, unseal
from dq.model.settings import SinkSettings, StreamSettings

Settings = TypeVar("Settings", StreamSettings, SinkSettings)
SMALL_FILE_BYTES_MAX = 1 * MIB


def read_sealed(files: Files, path: Path, bytes_max: int = SMALL_FILE_BYTES_MAX) -> dict[str, Any]:
    """The fields of such a file.

    Raises:
        FileNotFoundError: there is none. Malformed, NewerFormat: see `blamed`. Damaged, LogError: it cannot be read.
    """
    content = files.read_whole(path, bytes_max)
    check_format(json_object(content))  # asked before the checksum, which a newer version may have changed
    return unseal(content)[0]


@contextlib.contextmanager
def blamed(path: Path, advice: str) -> Iterator[None]:
    """Names the file in what is said of its content. `advice`: what to do where it is damaged.

    Raises:
        Damaged: it is Malformed. NewerFormat: a newer version of dq wrote it.
    """
    try:
        yield
    except Malformed as error:
        raise Damaged(f"{path} is not what dq wrote: {error}; {advice}") from error
    except NewerFormat as error:
        raise NewerFormat(f"{path}: {error}") from None


def settings_of(kind: type[Settings], values: dict[str, Any]) -> Settings:
    """The settings that a file has. Raises NewerFormat for what this version does not know."""
    try:
        return kind.from_dict(values)
    except InvalidSetting as error:
        raise NewerFormat(f"it has settings that this version of dq does not know: {error}") from error

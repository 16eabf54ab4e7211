"""A class of the user's own: the name by which another process imports it, and the import.

It travels as `module:qualname` and the directory from which the module is imported. The directory goes first while that
module is imported, as it does in the user's script, and last from then on, so that it hides nothing of the broker's own.
"""

from __future__ import annotations

import importlib
import os
import stat
import sys
from functools import reduce
from pathlib import Path
from typing import NamedTuple

from dq.errors import BackendFailed, InvalidSetting

SEPARATOR = ":"


class ClassName(NamedTuple):
    """`text` is `module:qualname`, `path` the directory from which the module is imported."""

    text: str
    path: str


def name_of(cls: type) -> ClassName:
    """The name by which every process can import a class.

    Raises:
        InvalidSetting: there is none; the message says why.
    """
    module, qualname = cls.__module__, cls.__qualname__
    if module == "__main__":
        raise InvalidSetting(
            f"the backend class {qualname} is defined in __main__, the script itself, which the broker cannot import: "
            "put it in a module of its own, as my_backends.py beside the script, and import it from there"
        )
    if "<locals>" in qualname:
        raise InvalidSetting(
            f"the backend class {module}.{qualname} is defined inside a function, where the broker cannot get at it: "
            "define it at the top of its module"
        )
    if _inside(sys.modules.get(module), qualname) is not cls:
        raise InvalidSetting(
            f"{module}{SEPARATOR}{qualname} is not the backend class {cls!r}: it cannot be imported by its name"
        )
    path = _directory_of(module)
    if path is None:
        raise InvalidSetting(f"the module {module} of the backend class {qualname} has no file of its name to import it from")
    return ClassName(f"{module}{SEPARATOR}{qualname}", path)


def _inside(module: object, qualname: str) -> object:
    return reduce(lambda found, part: getattr(found, part, None), qualname.split("."), module)


def _directory_of(module: str) -> str | None:
    """The entry of `sys.path` below which a module that is imported lies."""
    file = getattr(sys.modules[module], "__file__", None)
    if not file:
        return None
    path, parts = Path(os.path.abspath(file)).with_suffix(""), module.split(".")
    if path.name == "__init__":
        path = path.parent
    if list(path.parts[-len(parts) :]) != parts:
        return None
    return os.fspath(path.parents[len(parts) - 1])


def import_class(text: str, path: str = "") -> type:
    """The class of that name, in the process that is to use it.

    Raises:
        BackendFailed: it cannot be imported; the message says why, and what to do.
    """
    module, _, qualname = text.partition(SEPARATOR)
    try:
        _import_from(module, path)
    except (Exception, SystemExit) as error:  # the module is the user's, and may raise anything
        where = f" from {path}" if path else ""
        raise BackendFailed(
            f"the backend class {text} cannot be imported{where}: {type(error).__name__}: {error}. "
            "Put its module back, or on PYTHONPATH, and start the broker again"
        ) from error
    found = _inside(sys.modules.get(module), qualname)
    if not isinstance(found, type):
        raise BackendFailed(f"the module {module} has no class {qualname}: it had one when the stream was made; put it back")
    return found


def _import_from(module: str, path: str) -> None:
    usable = bool(path) and os.path.isdir(path)
    if usable:
        if stat.S_IMODE(os.stat(path).st_mode) & stat.S_IWOTH:
            raise ImportError(f"{path} can be written by every user: keep the module in a directory of your own")
        sys.path.insert(0, path)
    try:
        importlib.import_module(module)
    finally:
        if usable:
            sys.path.remove(path)
            if path not in sys.path:
                sys.path.append(path)  # for what the module imports later
    found = _directory_of(module)
    if usable and found is not None and os.path.realpath(found) != os.path.realpath(path):
        raise ImportError(f"a module of that name was imported from {found} already: give one of the two another name")

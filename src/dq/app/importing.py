"""How a worker process comes to the handler that it is to run: by importing what registered it, as the script did.

The worker is a fresh interpreter with the script's `sys.path`. A handler in a module is there once that module is imported. One
in the script itself (`__main__`) is there once the script is run as a module; that is done only where the script has an
`if __name__ == "__main__":`, since without it all that the script does would be done again in each worker.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dq.errors import NotImportable

if TYPE_CHECKING:
    from dq.app.application import App
    from dq.app.handler import Handler

MAIN_NAME: Final = "__dq_main__"
"""The script's name in a worker: not `__main__`, so that what stands below its guard is not run."""


class Origin(NamedTuple):
    """What a worker is to import.

    Attributes:
        modules: names of modules, in order.
        script: path of a script that is run as a module, or "".
    """

    modules: tuple[str, ...]
    script: str = ""

    @property
    def shown(self) -> str:
        """For messages."""
        return self.script or ", ".join(self.modules)


def origin_of(handler: Handler, home: str | None = None) -> Origin:
    """What makes a handler known where it is imported.

    Args:
        home: the module that was asked for on the command line, which may register what stands in others.

    Raises:
        NotImportable: a worker cannot import it; the message says why and what to do.
    """
    first = () if home is None else (home,)
    if handler.module != "__main__":
        return Origin(tuple(dict.fromkeys((*first, handler.module))))
    main: Any = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    file = getattr(main, "__file__", None)
    if not file or not os.path.isfile(file):
        raise NotImportable(
            f"handler {handler.name!r} was typed in or comes from `python -c`, where a worker process cannot import it: put it "
            "in a file, or leave `processes` out"
        )
    if not _has_guard(file):
        raise NotImportable(
            f"handler {handler.name!r} stands in __main__, the script {file} itself, which a worker process cannot import "
            'without running all of it: put `app.run()` under `if __name__ == "__main__":`, or the handler in a module of its '
            f"own, or run it by `dq work {os.path.splitext(os.path.basename(file))[0]}:app`"
        )
    if spec is not None:  # python -m
        return Origin((*first, str(spec.name)))
    return Origin(first, os.path.abspath(file))


def _has_guard(file: str) -> bool:
    """Whether a script tells being run from being imported, at its top."""
    with open(file, "rb") as source:
        tree = ast.parse(source.read(), file)
    for statement in tree.body:
        if isinstance(statement, ast.If):
            names = {node.id for node in ast.walk(statement.test) if isinstance(node, ast.Name)}
            texts = {node.value for node in ast.walk(statement.test) if isinstance(node, ast.Constant)}
            if "__name__" in names and "__main__" in texts:
                return True
    return False


def import_all(origin: Origin) -> None:
    """Imports it, in a worker.

    Raises:
        NotImportable: what the import raised, in one line with its place.
    """
    try:
        for module in origin.modules:
            importlib.import_module(module)
        if origin.script:
            _run_as_module(origin.script)
    except (Exception, SystemExit) as error:  # the module is the user's, and may raise anything
        raise NotImportable(f"{origin.shown} cannot be imported: {said_of(error)}") from error


def _run_as_module(script: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(MAIN_NAME, script)
    if spec is None or spec.loader is None:
        raise ImportError(f"{script} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[MAIN_NAME] = module
    spec.loader.exec_module(module)
    return module


def said_of(error: BaseException) -> str:
    """Type and message of an error, and the line of the user's that raised it."""
    said = f"{type(error).__name__}: {error}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _of_the_machinery(frame.filename)]
    return f"{said} ({frames[-1].filename}, line {frames[-1].lineno})" if frames else said


def _of_the_machinery(file: str) -> bool:
    return file.startswith("<frozen") or os.path.dirname(file) in (
        os.path.dirname(__file__),
        os.path.dirname(importlib.__file__),
    )


def find(apps: Iterable[App], name: str, sink: str, qualname: str, origin: Origin) -> tuple[App, Handler]:
    """The handler of that name in the apps that the import made, and its app; where there are several, by sink and function.

    Raises:
        NotImportable: there is none.
    """
    found = [(app, app.handlers[name]) for app in apps if name in app.handlers]
    if not found:
        raise NotImportable(
            f"{origin.shown} can be imported, but that registers no handler {name!r}: register it at the top of its module, "
            "not in a function that only the script calls"
        )
    return max(found, key=lambda each: (each[1].qualname == qualname, each[0].sink == sink))

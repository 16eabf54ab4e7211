"""`MODULE:APP` on the command line, and the `App` that it names."""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType
from typing import Any

import click

from dq.app.application import App
from dq.app.importing import said_of
from dq.model.names import near_names

_MISSING = object()


def load(target: str) -> App:
    """The app of a target. The current directory is where its module is looked for first.

    Raises:
        click.UsageError: there is no such module, nothing of that name in it, it is no App, or it has no handlers.
        click.ClickException: the module raised an error when it was imported.
    """
    module_name, separator, name = target.partition(":")
    if not separator or not name or not all(part.isidentifier() for part in (*module_name.split("."), *name.split("."))):
        raise click.UsageError(f"{target!r} names no app: it is MODULE:APP, as `tasks:app` for the App `app` in tasks.py")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    module = _import(module_name, here)
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, _MISSING)
    if found is _MISSING:
        apps = [each for each, value in vars(module).items() if isinstance(value, App)]
        there = near_names(name, apps, "apps in it") if apps else "there is no App in it"
        raise click.UsageError(f"the module {module_name} has no {name!r}; {there}")
    if not isinstance(found, App):
        raise click.UsageError(f"{target} is no App, but {type(found).__name__}: write `{name} = dq.App(...)` in it")
    if not found.handlers and not found.recurring:
        raise click.UsageError(f"{target} has no handlers: register one with @{name}.handler(...), in a module that it imports")
    found.home = module_name
    return found


def _import(name: str, here: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise click.UsageError(f"there is no module {error.name!r} in {here} or on PYTHONPATH") from error
        raise click.ClickException(f"the module {name} cannot be imported: {said_of(error)}") from error
    except (Exception, SystemExit) as error:  # the module is the user's, and may raise anything
        raise click.ClickException(f"the module {name} cannot be imported: {said_of(error)}") from error

"""What each setting is for a data directory, and who said so: its file, a `DQ_*` variable or a flag, the last the strongest.

They are read where they are used: by a broker when it starts, by a client when it is made. Nobody reads them again after that.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from dq.errors import InvalidSetting
from dq.model.names import near_names
from dq.model.settings import StreamSettings
from dq.model.shown import shown
from dq.settings.setting import AT_START, Part, Value
from dq.settings.table import DIRECTORY, FILE, SETTINGS, TOGETHER
from dq.settings.toml_file import read_file

DEFAULT: Final = "default"
FLAG: Final = "--set"
OTHERS: Final = frozenset(
    {
        DIRECTORY, "DQ_ALLOW_NETWORK_FS", "DQ_TRACING",
        "DQ_ID", "DQ_STREAM", "DQ_SINK", "DQ_ATTEMPT", "DQ_KEY", "DQ_TOPIC", "DQ_NAME",
    }
)  # fmt: skip
"""Variables that are no settings: `dq consume --exec` sets most of them for its commands, which may well call dq."""
_OF_SERVICES: Final = re.compile(r"DQ_(.*_)?(SERVICE_HOST|(SERVICE_)?PORT(_.*)?)")
"""What Kubernetes sets in every pod where a service is named dq."""
_ALIKE: Final = 0.8
_VARIABLES: Final = {setting.variable: name for name, setting in SETTINGS.items()}


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a data directory, as they were read once.

    Attributes:
        values: by name, all of them.
        sources: by name, of those that are not as they are by default: "dq.toml:3", "DQ_BUCKETS" or "--set".
    """

    values: Mapping[str, Any]
    sources: Mapping[str, str]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def source(self, name: str) -> str:
        """Who said so."""
        return self.sources.get(name, DEFAULT)

    def wished(self, part: Part) -> dict[str, Any]:
        """What was said of new streams, or of new sinks; the rest is as dq has it."""
        return {name: self.values[name] for name in self.sources if SETTINGS[name].part is part}

    def told(self) -> dict[str, str]:
        """What a broker that starts with these says of itself: all that it reads, as text."""
        return {name: each.text_of(self.values[name]) for name, each in SETTINGS.items() if each.part in AT_START}


PLAIN: Final = Settings({name: setting.default for name, setting in SETTINGS.items()}, {})
"""All as dq has it."""


def settings_of(
    root: Path, flags: Iterable[str] = (), *, strict: bool = False, environ: Mapping[str, str] = os.environ
) -> Settings:
    """The settings of a data directory, whether it is there or not.

    Args:
        root: the data directory.
        flags: given by hand, as "buckets=4".
        strict: refuse every variable that begins with DQ_ and is not known; else those alone that look like a slip: a library
            has to live with variables of its program.
        environ: the environment.

    Raises:
        InvalidSetting: one of them is unknown or has no such value; the message names it and where it stands.
        LogError: the file cannot be read.
    """
    values: dict[str, Value] = {name: setting.default for name, setting in SETTINGS.items()}
    sources: dict[str, str] = {}

    def take(name: str, value: Value, source: str) -> None:
        values[name], sources[name] = value, source

    for name, (given, source) in read_file(root).items():
        if name not in SETTINGS:
            raise InvalidSetting(f"{root / source}: {_unknown(name, given)}")
        take(name, _placed(name, given, str(root / source)), source)
    for variable, name in _VARIABLES.items():
        if text := environ.get(variable):
            take(name, _placed(name, text, variable, of_text=True), variable)
    _check_variables(environ, strict=strict)
    for flag in flags:
        name, equals, text = flag.partition("=")
        if not equals:
            raise InvalidSetting(f"{FLAG}: {shown(flag)} is not NAME=VALUE")
        if name not in SETTINGS:
            raise InvalidSetting(f"{FLAG}: {_unknown(name, text)}")
        take(name, _placed(name, text, FLAG, of_text=True), FLAG)
    _drop_contradicted(values, sources)
    found = Settings(values, sources)
    _check_streams(found)
    return found


def _placed(name: str, given: Any, place: str, *, of_text: bool = False) -> Value:
    """The value of a setting. Raises InvalidSetting, which says where it stands."""
    setting = SETTINGS[name]
    try:
        return setting.of_text(given) if of_text else setting.of_file(given)
    except InvalidSetting as error:
        raise InvalidSetting(f"{place}: {error}") from None


def _unknown(name: str, given: object) -> str:
    if isinstance(given, dict):
        return f'{FILE} has no sections, and no {shown(name)}: all settings stand at the top, as max_age = "7d"'
    return f"there is no setting {shown(name)}; {near_names(name, SETTINGS, 'settings')} `dq config` shows all"


def _check_variables(environ: Mapping[str, str], *, strict: bool) -> None:
    """Raises InvalidSetting where a variable was meant for dq, and is none of its."""
    for variable in environ:
        if not variable.startswith("DQ_") or variable in _VARIABLES or variable in OTHERS or _OF_SERVICES.fullmatch(variable):
            continue
        name = variable.removeprefix("DQ_").lower()
        if strict or get_close_matches(name, SETTINGS, n=1, cutoff=_ALIKE):
            near = near_names(name, SETTINGS, "settings")
            raise InvalidSetting(f"the variable {variable} is no setting of dq: {near} Unset it, or see `dq config`")


def _drop_contradicted(values: dict[str, Value], sources: dict[str, str]) -> None:
    """What a weaker source says of something that a stronger one says in another way does not count."""
    for names in TOGETHER:
        said = {name: _rank(sources[name]) for name in names if name in sources}
        for name, rank in said.items():
            if rank < max(said.values()):
                values[name] = SETTINGS[name].default
                del sources[name]


def _rank(source: str) -> int:
    return 2 if source == FLAG else 0 if source.startswith(FILE) else 1


def _check_streams(found: Settings) -> None:
    """Raises InvalidSetting where no stream could be as it is said."""
    wished = found.wished(Part.STREAM)
    try:
        StreamSettings(**wished)
    except InvalidSetting as error:
        said = ", ".join(f"{name} by {found.source(name)}" for name in wished)
        raise InvalidSetting(f"as the settings are, no stream could be made: {error} ({said})") from None


def with_defaults(defaults: Mapping[str, Any], wish: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked of a new stream or sink, over the defaults of the directory.

    What says one thing together comes from one of them alone: who asks for `max_records` does not get a `retention` with it.
    """
    asked = {name for names in TOGETHER if names & set(wish) for name in names}
    return {**{name: value for name, value in defaults.items() if name not in asked}, **wish}

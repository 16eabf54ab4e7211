"""The storage backends: by name, or as a class of the user's own. What they must do is in `storage.py`."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol

from dq.errors import BackendFailed, InvalidSetting
from dq.log.bucket_log import BucketLog
from dq.log.format import Identity
from dq.log.guard import Guarded
from dq.log.memory import MemoryBackend
from dq.log.own_class import SEPARATOR, import_class, name_of
from dq.log.reader import BucketReader
from dq.log.storage import Batch, BucketPlace, End, Slice, StorageBackend, StorageReader, StorageStats, StorageWriter, Stored
from dq.model.settings import BY_CLASS, MEMORY, StreamSettings
from dq.model.shown import shown

__all__ = [
    "Backend",
    "Batch",
    "BucketPlace",
    "End",
    "JsonBackend",
    "Slice",
    "StorageBackend",
    "StorageReader",
    "StorageStats",
    "StorageWriter",
    "Stored",
    "backend_of",
    "get_backend_class",
    "list_backends",
    "register_backend",
    "wish_of",
]
ENTRY_POINTS = "dq.backends"
"""The group of entry points by which a package offers backends: `name = "module:Class"`."""
_OTHER_FORM = ("put", "get", "flush")


class JsonBackend(StorageBackend):
    """The `json` backend: segments of JSON lines in the bucket's directory."""

    @classmethod
    def open_writer(cls, place: BucketPlace, identity: Identity, clean: dict[str, Any] | None) -> BucketLog:
        """See `StorageBackend.open_writer`."""
        return BucketLog.open(
            place.files,
            place.directory,
            identity,
            place.segment_bytes,
            clean,
            place.limits,
            durability=place.durability,
        )

    @classmethod
    def open_reader(cls, place: BucketPlace) -> BucketReader:
        """See `StorageBackend.open_reader`."""
        return BucketReader(place.files, place.directory, place.limits)


class Backend(Protocol):
    """What is made of a `StorageBackend`, or of a class in the other form: `backend_of` gives it."""

    def open_writer(self, place: BucketPlace, identity: Identity, clean: dict[str, Any] | None) -> StorageWriter:
        """See `StorageBackend.open_writer`."""

    def open_reader(self, place: BucketPlace) -> StorageReader:
        """See `StorageBackend.open_reader`."""

    def destroy(self, place: BucketPlace) -> None:
        """See `StorageBackend.destroy`."""


_BUILT_IN: dict[str, type[StorageBackend]] = {"json": JsonBackend, MEMORY: MemoryBackend}
_registered: dict[str, type] = {}


# --- names -----------------------------------------------------------------------------------------------------------
def register_backend(name: str, cls: type) -> None:
    """Makes a backend known under `name` in this process; the last one of a name counts.

    Args:
        name: what `backend=` will say.
        cls: a `StorageBackend`, or a class with the async methods `put(record)`, `get(offset, limit)` and `flush()`; it
            must be defined at the top of a module that can be imported.

    Raises:
        TypeError: it is no class, or one of neither form.
        InvalidSetting: the name is that of a backend of dq.
    """
    if not isinstance(name, str) or not name or SEPARATOR in name:
        raise InvalidSetting(f"a backend's name is a text without {SEPARATOR!r}, not {shown(name)}")
    if name in _BUILT_IN:
        raise InvalidSetting(f"{name!r} is a backend of dq: give yours another name")
    _registered[name] = _checked(cls)


def get_backend_class(backend: str | type) -> type:
    """The class of a backend.

    Args:
        backend: its name, `module:qualname`, or the class itself.

    Raises:
        TypeError: it is neither a text nor a class, or a class that stores nothing.
        InvalidSetting: no backend has that name; the message has the list.
        BackendFailed: it cannot be imported.
    """
    if not isinstance(backend, str):
        return _checked(backend)
    found = _BUILT_IN.get(backend) or _registered.get(backend)
    if found is not None:
        return found
    if SEPARATOR in backend:
        return _checked(import_class(backend))
    entry = _entries().get(backend)
    if entry is None:
        raise InvalidSetting(f"no storage backend {backend!r}; known are {', '.join(map(repr, list_backends()))}")
    return _checked(_loaded(entry))


def list_backends() -> list[str]:
    """The names of all backends that this process knows, sorted."""
    return sorted({*_BUILT_IN, *_registered, *_entries()})


def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}


def _loaded(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except Exception as error:  # the package is not ours, and may raise anything
        why = f"{type(error).__name__}: {error}"
        raise BackendFailed(f"the backend {entry.name!r} of the entry point {entry.value} cannot be imported: {why}") from error


def _checked(cls: Any) -> type:
    if not isinstance(cls, type):
        raise TypeError(f"a storage backend is a class, not {shown(cls)}")
    if not issubclass(cls, StorageBackend) and not is_other_form(cls):
        raise TypeError(
            f"{cls.__qualname__} stores nothing: a backend subclasses dq.StorageBackend, or has the async methods put(record), "
            "get(offset, limit) and flush()"
        )
    return cls


def is_other_form(cls: type) -> bool:
    """Whether a class has the form that an adapter takes: `put`, `get` and `flush` of records that are dicts."""
    return not issubclass(cls, StorageBackend) and all(callable(getattr(cls, name, None)) for name in _OTHER_FORM)


# --- streams ---------------------------------------------------------------------------------------------------------
def wish_of(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a stream as they travel: checked, and a backend of the user's own by the name that others import.

    Raises:
        InvalidSetting, TypeError, BackendFailed: they cannot be granted anywhere.
    """
    wish = dict(settings)
    if "backend" in wish:
        cls = get_backend_class(wish["backend"])
        if not isinstance(wish["backend"], str) or wish["backend"] in _registered:
            wish["backend"], wish["backend_path"] = _travelling(cls)
        if is_other_form(cls):
            wish.setdefault("durability", BY_CLASS)
    granted = StreamSettings.from_dict(wish)
    _check_form(granted, wish.get("backend"))
    kept = granted.to_dict()
    return {name: kept[name] for name in wish}


def _travelling(cls: type) -> tuple[str, str]:
    for name, known in _BUILT_IN.items():
        if cls is known:
            return name, ""
    return name_of(cls)


def _check_form(settings: StreamSettings, backend: object) -> None:
    if backend in _BUILT_IN and settings.backend_options:
        raise InvalidSetting(f"backend={backend!r} takes no backend_options")


def backend_of(settings: StreamSettings) -> Backend:
    """The backend of a stream, in any process.

    Raises:
        InvalidSetting: there is none of its name, or it cannot have these settings.
        BackendFailed: it cannot be imported.
    """
    name = settings.backend
    _check_form(settings, name)
    built_in = _BUILT_IN.get(name)
    if built_in is not None:
        return built_in
    cls = _checked(import_class(name, settings.backend_path)) if SEPARATOR in name else get_backend_class(name)
    by_class = settings.durability == BY_CLASS
    if is_other_form(cls) != by_class:
        raise InvalidSetting(
            f"backend={name!r} cannot have durability={settings.durability!r}: "
            + ("that is for a class with put, get and flush" if by_class else "what it keeps is its own; leave durability out")
        )
    return _adapted(cls) if by_class else Guarded(cls)


def _adapted(cls: type) -> Backend:
    # asyncio alone takes as long to import as all that a broker needs besides, and few streams are kept so.
    from dq.log.adapter import Adapted

    return Adapted(cls)

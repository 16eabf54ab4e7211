"""Backends by name, by class, by entry point, and how a class travels to other processes."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import own_backends
import pytest
from own_backends import ElsewhereBackend, Notebook

import dq
from dq.errors import BackendFailed, InvalidSetting
from dq.log import backend as backends
from dq.log.backend import JsonBackend, backend_of, get_backend_class, list_backends, register_backend, wish_of
from dq.log.memory import MemoryBackend
from dq.log.own_class import import_class, name_of
from dq.model.settings import StreamSettings

HERE = str(Path(__file__).parent)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_registered", {})


def test_a_registered_backend_is_found_by_its_name() -> None:
    """P10: register_backend, get_backend_class by name or class, list_backends."""
    assert list_backends() == ["json", "memory"]
    dq.register_backend("mine", ElsewhereBackend)
    assert dq.list_backends() == ["json", "memory", "mine"]
    assert dq.get_backend_class("mine") is ElsewhereBackend
    assert get_backend_class(ElsewhereBackend) is ElsewhereBackend
    assert get_backend_class("own_backends:ElsewhereBackend") is ElsewhereBackend
    assert get_backend_class("json") is JsonBackend
    assert get_backend_class("memory") is MemoryBackend
    register_backend("mine", Notebook)
    assert get_backend_class("mine") is Notebook


@pytest.mark.parametrize("thing", ["json", 7, None, ElsewhereBackend(), int, type("Half", (), {"put": len, "get": len})])
def test_what_is_no_backend_class_is_refused(thing: object) -> None:
    """P10: not a class is a TypeError; so is a class that stores nothing."""
    with pytest.raises(TypeError, match=r"a storage backend is a class|stores nothing"):
        register_backend("mine", thing)  # type: ignore[arg-type]
    if not isinstance(thing, str):
        with pytest.raises(TypeError):
            get_backend_class(thing)  # type: ignore[arg-type]
    assert list_backends() == ["json", "memory"]


def test_an_unknown_backend_is_a_value_error_with_the_list() -> None:
    """P10: unknown is a ValueError that has the list."""
    register_backend("mine", Notebook)
    with pytest.raises(ValueError, match="no storage backend 'punchcards'; known are 'json', 'memory', 'mine'"):
        get_backend_class("punchcards")
    with pytest.raises(InvalidSetting, match="'punchcards'"):
        wish_of({"backend": "punchcards"})


@pytest.mark.parametrize("name", ["json", "memory", "", "a:b", 7])
def test_a_name_that_is_taken_or_none_is_refused(name: str) -> None:
    with pytest.raises(InvalidSetting):
        register_backend(name, Notebook)


def test_an_entry_point_is_a_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """P10: a package offers backends by the group dq.backends; they travel by their names."""
    entries = [
        EntryPoint("shelf", "own_backends:ElsewhereBackend", "dq.backends"),
        EntryPoint("gone", "no_such:X", "dq.backends"),
    ]
    monkeypatch.setattr(backends, "entry_points", lambda group: entries if group == "dq.backends" else [])
    assert list_backends() == ["gone", "json", "memory", "shelf"]
    assert get_backend_class("shelf") is ElsewhereBackend
    assert wish_of({"backend": "shelf"}) == {"backend": "shelf"}
    assert backend_of(StreamSettings(backend="shelf"))
    with pytest.raises(BackendFailed, match=r"'gone' .* cannot be imported: ModuleNotFoundError"):
        get_backend_class("gone")


def test_a_class_travels_by_its_name_and_its_directory() -> None:
    """P10: passing the class itself works if it can be imported by name."""
    assert name_of(ElsewhereBackend) == ("own_backends:ElsewhereBackend", HERE)
    register_backend("mine", Notebook)
    kept = {"backend": "own_backends:Notebook", "backend_path": HERE, "durability": "backend"}
    assert wish_of({"backend": "mine"}) == wish_of({"backend": Notebook}) == kept
    assert wish_of({"backend": JsonBackend}) == {"backend": "json", "backend_path": ""}
    options = wish_of({"backend": ElsewhereBackend, "backend_options": {"b": 1, "a": None}})["backend_options"]
    assert options == '{"a":null,"b":1}'
    assert StreamSettings(backend_options=options).options == {"a": None, "b": 1}


def test_a_class_of_the_script_or_of_a_function_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """P10: one defined in __main__ or in a function is refused with that reason."""

    class Local(ElsewhereBackend):
        pass

    with pytest.raises(InvalidSetting, match=r"Local is defined inside a function.*define it at the top"):
        wish_of({"backend": Local})
    monkeypatch.setattr(Notebook, "__module__", "__main__")
    with pytest.raises(InvalidSetting, match=r"defined in __main__.*in a module of its own"):
        wish_of({"backend": Notebook})
    monkeypatch.setattr(Notebook, "__module__", "nowhere")
    with pytest.raises(InvalidSetting, match="cannot be imported by its name"):
        wish_of({"backend": Notebook})


def test_a_module_without_a_file_of_its_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for file in (None, "/elsewhere/other_name.py"):
        monkeypatch.setattr(own_backends, "__file__", file)
        with pytest.raises(InvalidSetting, match="no file of its name"):
            name_of(Notebook)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    package = tmp_path / "shelves" / "deep"
    package.mkdir(parents=True, mode=0o700)
    (package.parent / "__init__.py").write_text("")
    (package / "__init__.py").write_text("from dq import StorageBackend\nclass Deep(StorageBackend):\n    class Deeper: pass\n")
    return tmp_path


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for module in set(sys.modules) - before:
        del sys.modules[module]


def test_a_class_is_imported_from_its_directory_which_comes_last_from_then_on(package: Path) -> None:
    found = import_class("shelves.deep:Deep", str(package))
    assert found.__name__ == "Deep"
    assert sys.path[-1] == str(package)
    assert name_of(found) == ("shelves.deep:Deep", str(package))
    assert import_class("shelves.deep:Deep.Deeper", str(package)).__name__ == "Deeper"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("shelves.deep:Gone", "has no class Gone"),
        ("shelves.deep:StorageBackend.open_writer", "has no class"),
        ("shelves.gone:Deep", "ModuleNotFoundError.*start the broker again"),
        ("broken:Deep", "ZeroDivisionError"),
        ("leaving:Deep", "SystemExit"),
    ],
)
def test_a_class_that_cannot_be_imported_says_why(package: Path, text: str, why: str) -> None:
    (package / "broken.py").write_text("1 / 0\n")
    (package / "leaving.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(BackendFailed, match=why):
        import_class(text, str(package))


def test_two_modules_of_one_name_are_not_taken_for_each_other(package: Path, tmp_path: Path) -> None:
    import_class("shelves.deep:Deep", str(package))
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    with pytest.raises(BackendFailed, match=r"was imported from .* already: give one of the two another name"):
        import_class("shelves.deep:Deep", str(other))
    # A directory that is gone says nothing about a class that is found
    assert import_class("shelves.deep:Deep", str(tmp_path / "gone"))


def test_nothing_is_imported_from_a_directory_that_every_user_can_write_to(package: Path) -> None:
    package.chmod(0o777)
    with pytest.raises(BackendFailed, match="can be written by every user"):
        import_class("shelves.deep:Deep", str(package))
    assert str(package) not in sys.path


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"backend": "json", "backend_options": {"a": 1}}, "takes no backend_options"),
        ({"backend": ElsewhereBackend, "backend_options": {"a": [1]}}, "a dict of texts, numbers"),
        ({"backend": ElsewhereBackend, "backend_options": "[1]"}, "a dict of texts, numbers"),
        ({"backend": ElsewhereBackend, "backend_options": {"a": "x" * 70_000}}, "65,536 are the most"),
        ({"backend": ElsewhereBackend, "backend_options": {1: 2}}, "a dict of texts, numbers"),
        ({"backend": "json", "backend_path": 3}, "path of a directory"),
    ],
)
def test_settings_that_no_backend_can_have_are_refused(settings: dict[str, object], why: str) -> None:
    with pytest.raises(InvalidSetting, match=why):
        wish_of({**settings})


@pytest.mark.parametrize(("cls", "durability"), [(Notebook, "sync"), (Notebook, "os"), (ElsewhereBackend, "backend")])
def test_what_a_receipt_says_is_as_the_form_of_the_class_has_it(cls: type, durability: str) -> None:
    """P10: a class with put, get and flush promises what it promises: its durability is "backend"."""
    with pytest.raises(InvalidSetting, match=r"leave durability out|for a class with put, get and flush"):
        backend_of(StreamSettings.from_dict({**wish_of({"backend": cls}), "durability": durability}))

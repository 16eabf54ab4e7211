"""Bad input 15 to 17, 20, 21, R7, R11: the files beside the logs, under right checksums where they have one."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from log_rig import records
from nonsense import VALUES, nested, with_field
from sim_files import MemoryFiles

from dq.broker.directory import Directory
from dq.errors import DqError, LogError, NewerFormat
from dq.log.catalog import Catalog
from dq.log.files import Files
from dq.log.format import SUFFIX_BYTES, seal
from dq.log.layout import Layout
from dq.log.sink_file import make_sink, read_sink
from dq.log.storage import Batch
from dq.log.stream_file import read_stream
from dq.model.settings import SinkSettings, StreamSettings
from stage import Threaded

ROOT = Path("/disk")
LAYOUT = Layout(ROOT)
SETTINGS = list(StreamSettings().to_dict())


def opened(disk: MemoryFiles) -> Catalog:
    catalog = Catalog(disk, ROOT)
    catalog.open()
    return catalog


def two_streams(*, clean: bool) -> MemoryFiles:
    """Streams "emails" and "orders" with some records each."""
    disk = MemoryFiles()
    disk.add(ROOT, None)
    catalog = opened(disk)
    for name in ("emails", "orders"):
        for writer in catalog.create(name, StreamSettings(buckets=2, segment_bytes=4096)).writers:
            writer.append(Batch("ada", 0, 2, records(0, 2)))
            writer.commit()
    catalog.close(clean=clean)
    return disk


def unsealed(content: bytes) -> dict[str, Any]:
    fields = orjson.loads(content)
    del fields["crc"]
    return fields


def served(catalog: Catalog, name: str) -> bool:
    """Whether a stream is open, with all its records; if it is not, it says why, by name."""
    if name in catalog.streams:
        assert {writer.end.offset for writer in catalog.streams[name].writers} == {2}
        return True
    message = str(catalog.errors[name])
    assert str(LAYOUT.stream(name)) in message or repr(name) in message
    assert len(message) < 10_000
    return False


# --- stream.json -------------------------------------------------------------------------------------------------------
def forged_stream(make: Callable[[dict[str, Any]], bytes]) -> Catalog:
    """A catalog in which the one stream was forged, and the other one is as it was."""
    disk = two_streams(clean=False)
    disk.add(LAYOUT.stream_file("emails"), seal(make(unsealed(disk.content(LAYOUT.stream_file("emails")))))[0])
    catalog = opened(disk)
    assert served(catalog, "orders")
    return catalog


def outcome_of(act: Callable[[], bool]) -> str:
    """Says "fits", "refused", or the name of what came out and should not."""
    try:
        return "fits" if act() else "refused"
    except (Exception, RecursionError) as error:
        return f"{type(error).__name__}: {str(error)[:60]}"


def is_refused(name: str) -> bool:
    """Whether a kind of value fits nowhere."""
    return name in ("null", "list", "list of one", "object", "negative") or "lists" in name or "objects" in name


@pytest.mark.parametrize("field", ["format", "name", "uuid", "epoch", "settings"])
def test_a_stream_file_with_nonsense_closes_that_stream(field: str) -> None:
    """Bad input 16, 20: every field with every kind of value."""
    fits = {("uuid", "text"), ("uuid", "empty text"), ("uuid", "long text"), ("settings", "object")}
    wrong = {}
    for name, value in VALUES.items():
        outcome = outcome_of(lambda v=value: served(forged_stream(lambda fields: with_field(fields, field, v)), "emails"))
        if outcome != "refused" and (field, name) not in fits:
            wrong[name] = outcome
    assert wrong == {}


# A fault of `settings.py`: any durability that is not true passes for the default, `null` and `[]` too.
@pytest.mark.parametrize("field", SETTINGS)
def test_settings_with_nonsense_close_that_stream_or_are_settings(field: str) -> None:
    """Bad input 16, 20: a setting of a wrong type is refused, one that is missing has its default."""
    fits = {"null", "object"} if field == "backend_options" else {"null"} if getattr(StreamSettings(), field) is None else set()
    wrong = {}
    for name, value in VALUES.items():

        def make(fields: dict[str, Any], value: bytes = value) -> bytes:
            return with_field(fields, "settings", with_field(fields["settings"], field, value) + b"}")

        outcome = outcome_of(lambda make=make: served(forged_stream(make), "emails"))
        if outcome not in ("fits", "refused") or (outcome == "fits" and is_refused(name) and name not in fits):
            wrong[name] = outcome
    assert wrong == {}


# Faults of `catalog.py`: `_starts` takes an object, ends for more or fewer buckets than there are, and anything for `accepted`.
@pytest.mark.parametrize(
    "starts",
    [
        b"{}", b"7", b'"a"', b"[7]", b"[[1]]", b'[["1",[0,0],false]]', b"[[1,[-1,0],false]]", b"[[1,[0.5,0],false]]",
        b"[[1,[true,0],false]]", b"[[1,7,false]]", b"[[1,null,false]]", nested(90), nested(1_000),
        b"[[1,%s,false]]" % nested(1_000), b"[[1,[0,0],%s]]" % nested(1_000), b"[[1,[0],false]]",
        b"[[1,[0,0,0],false]]", b'[[1,[0,0],"yes"]]',
    ],
    ids=lambda starts: starts[:24].decode(),
)  # fmt: skip
def test_starts_of_epochs_with_nonsense_close_that_stream(starts: bytes) -> None:
    """Bad input 16, 20: also with more or fewer ends than the stream has buckets."""
    assert not served(forged_stream(lambda fields: with_field(fields, "starts", starts)), "emails")


def test_a_stream_file_without_starts_is_one_of_before_there_were_any() -> None:
    """Bad input 17: optional fields stay optional, unknown ones are skipped."""
    assert served(forged_stream(lambda fields: with_field(fields, "starts", b"")), "emails")
    assert served(forged_stream(lambda fields: with_field(fields, "colour", nested(90))), "emails")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b"\xef\xbb\xbf{}", nested(200_000), b'{"format":1}', b'"x"'])
@pytest.mark.parametrize("right", [False, True], ids=["as it is", "sealed"])
def test_a_stream_file_that_is_none_closes_that_stream(content: bytes, right: bool) -> None:
    """Bad input 15."""
    disk = two_streams(clean=False)
    disk.add(LAYOUT.stream_file("emails"), seal(content)[0] if right else content)
    catalog = opened(disk)
    assert not served(catalog, "emails")
    assert served(catalog, "orders")


# --- clean.json --------------------------------------------------------------------------------------------------------
def mark_with(path: tuple[Any, ...], value: bytes) -> Callable[[dict[str, Any]], bytes]:
    """Makes the mark of a clean stop in which the value at `path` is another."""

    def at(place: Any, rest: tuple[Any, ...]) -> bytes:
        if not rest:
            return value
        if isinstance(place, list):
            return b"[%s]" % b",".join(
                at(kept, rest[1:]) if n == rest[0] else orjson.dumps(kept) for n, kept in enumerate(place)
            )
        return with_field(place, rest[0], at(place[rest[0]], rest[1:])) + b"}"

    return lambda fields: at(fields, path)[:-1]


MARK = ("segment", "position", "offset", "crc", "bytes", "publishers")


@pytest.mark.parametrize(
    "path",
    [
        ("format",), ("streams",), ("streams", "emails"), ("streams", "emails", "uuid"), ("streams", "emails", "epoch"),
        ("streams", "emails", "buckets"), ("streams", "emails", "buckets", 1),
        *(("streams", "emails", "buckets", 1, key) for key in MARK),
    ],
    ids=lambda path: "/".join(map(str, path)),
)  # fmt: skip
def test_a_mark_of_a_clean_stop_with_nonsense_costs_a_check_and_nothing_else(path: tuple[Any, ...]) -> None:
    """Bad input 16, 20, R11: it is a hint; what it says is believed only where it fits."""
    outcomes = Counter()
    for name, value in VALUES.items():
        if not value:
            continue
        disk = two_streams(clean=True)
        disk.add(LAYOUT.clean_mark, seal(mark_with(path, value)(unsealed(disk.content(LAYOUT.clean_mark))))[0])
        catalog = opened(disk)
        assert served(catalog, "emails"), name
        assert served(catalog, "orders"), name
        report = catalog.streams["emails"].writers[1].report
        outcomes["believed" if report.clean else "checked"] += 1
        # What was believed lets the log go on, and open again in full.
        writer = catalog.streams["emails"].writers[1]
        writer.append(Batch("eve", 0, 1, records(2, 1)))
        writer.commit()
        catalog.close(clean=False)
        again = opened(disk)
        assert [part.end.offset for part in again.streams["emails"].writers] == [2, 3], name
    assert outcomes["checked"] >= len(VALUES) - 3


@pytest.mark.parametrize(
    "change", [lambda _: None, lambda content: content[:-1], lambda content: b"", lambda content: content * 2]
)
def test_a_mark_that_is_missing_or_torn_costs_a_check(change: Callable) -> None:
    """R11: it is rebuilt by reading the logs."""
    disk = two_streams(clean=True)
    content = change(disk.content(LAYOUT.clean_mark))
    disk.unlink(LAYOUT.clean_mark)
    if content is not None:
        disk.add(LAYOUT.clean_mark, content)
    catalog = opened(disk)
    assert served(catalog, "emails")
    assert not catalog.streams["emails"].writers[0].report.clean


# --- dq.json and sink.json ---------------------------------------------------------------------------------------------
def make_root(tmp_path: Path) -> Path:
    root = tmp_path / "queue_data"
    root.mkdir(0o700, parents=True)
    (root / "sinks").mkdir(0o700)
    make_sink(Files(), root, "mailers", SinkSettings())
    return root


def refusal(act: Callable[[], object], path: Path) -> bool:
    """False where it is a LogError that names the path."""
    try:
        act()
    except LogError as error:
        return str(path) not in str(error)
    return True


# Faults of `broker/directory.py`: a format that is no number, or below 1, is compared, and passes or is a TypeError.
def test_the_directory_s_own_file_with_nonsense_is_refused(tmp_path: Path) -> None:
    """Bad input 16, 20: dq.json."""
    wrong = {}
    for number, (name, value) in enumerate(VALUES.items()):
        root = make_root(tmp_path / str(number))
        Layout(root).instance.write_bytes(with_field({"format": 1, "instance": "a"}, "format", value) + b"}\n")
        outcome = outcome_of(lambda root=root: refusal(Directory(root, Files()).take, root))
        if outcome != "refused":
            wrong[name] = outcome
    assert wrong == {}


@pytest.mark.parametrize(
    "content", [b"", b"null", b"[1]", b"{", nested(1_000), b'"format"', b"1"], ids=lambda content: content[:9].decode()
)
def test_the_directory_s_own_file_that_is_no_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    """Bad input 15: dq.json."""
    root = make_root(tmp_path)
    Layout(root).instance.write_bytes(content)
    with pytest.raises(LogError, match=str(root)):
        Directory(root, Files()).take()


@pytest.mark.parametrize("field", ["format", "settings", "start", "ack_grace", "max_attempts", "colour"])
def test_settings_of_a_sink_with_nonsense_are_refused(tmp_path: Path, field: str) -> None:
    """Bad input 16, 20: sink.json."""
    root = make_root(tmp_path)
    path = Layout(root).sink_settings("mailers")
    whole, wrong = orjson.loads(path.read_bytes()), {}
    del whole["crc"]
    fits = {("ack_grace", "float"), ("ack_grace", "whole float"), ("settings", "object")}
    for name, value in VALUES.items():
        if field in ("format", "settings"):
            content = with_field(whole, field, value)
        else:
            content = with_field(whole, "settings", with_field(whole["settings"], field, value) + b"}")
        path.write_bytes(seal(content)[0])
        outcome = outcome_of(lambda: refusal(lambda: read_sink(Files(), root, "mailers"), path))
        has_default = name == "missing" and field not in ("format", "settings")
        if outcome != ("fits" if (field, name) in fits or has_default else "refused"):
            wrong[name] = outcome
    assert wrong == {}


def test_newer_formats_of_small_files_are_named_as_that(tmp_path: Path) -> None:
    """Bad input 17, R7: dq.json, sink.json and stream.json of a newer dq."""
    root = make_root(tmp_path)
    Layout(root).instance.write_bytes(b'{"format":2,"instance":"a"}\n')
    with pytest.raises(NewerFormat, match=str(root)):
        Directory(root, Files()).take()
    disk = two_streams(clean=False)
    content = disk.content(LAYOUT.stream_file("emails")).replace(b'"format":1', b'"format":2')
    disk.add(LAYOUT.stream_file("emails"), seal(content[:-SUFFIX_BYTES])[0])
    assert isinstance(opened(disk).errors["emails"], NewerFormat)
    path = Layout(root).sink_settings("mailers")
    path.write_bytes(path.read_bytes().replace(b'"format":1', b'"format":2'))
    with pytest.raises(NewerFormat, match=str(path)):
        read_sink(Files(), root, "mailers")


# Faults of `broker/directory.py`: they open with `read_bytes`, which waits at a FIFO for ever.
@pytest.mark.parametrize("what", ["dq.json", "sink.json", "stream.json"])
@pytest.mark.parametrize(
    "put", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir], ids=["fifo", "link", "directory"]
)
def test_a_small_file_that_is_no_plain_file_is_refused_at_once(tmp_path: Path, what: str, put: Callable) -> None:
    """Bad input 21: a FIFO makes nobody wait, a link to an endless device is not followed."""
    root = make_root(tmp_path)
    layout = Layout(root)
    (root / "streams" / "emails").mkdir(0o700, parents=True)
    path, read = {
        "dq.json": (layout.instance, lambda: Directory(root, Files()).take()),
        "sink.json": (layout.sink_settings("mailers"), lambda: read_sink(Files(), root, "mailers")),
        "stream.json": (layout.stream_file("emails"), lambda: read_stream(Files(), root, "emails")),
    }[what]
    path.unlink(missing_ok=True)
    if what != "stream.json" and put not in (os.mkfifo, Path.mkdir):
        path.symlink_to("nowhere")  # what follows links is not led to an endless file here
    else:
        put(path)
    waiting = Threaded(read)
    try:
        with pytest.raises(DqError, match=str(path)):
            waiting.result(2)
    finally:
        if put is os.mkfifo:
            os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))  # lets go who waits there
        path.rmdir() if path.is_dir() else path.unlink()

"""`docs/formats.md` names all that can stand in the files, and each command of it finds something in a log."""

from __future__ import annotations

import re
from dataclasses import fields
from datetime import timedelta
from pathlib import Path

import pytest
from doc_blocks import ROOT, blocks_of, run_shell

import dq
from dq.core import later, notes
from dq.log import format as log_format
from dq.log.layout import Layout
from dq.model import about
from dq.model.dead_letter import DeadLetter
from dq.model.settings import SinkSettings, StreamSettings

PAGE = (ROOT / "docs" / "formats.md").read_text()
BLOCKS = blocks_of(ROOT / "docs" / "formats.md")
COMMANDS = [
    command
    for block in BLOCKS
    if block.language == "sh"
    for command in re.split(r"\n(?=jq |python )", block.text.rstrip("\n"))
]  # fmt: skip


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where `queue_data` has a log with records of all kinds."""
    found = tmp_path_factory.mktemp("formats")
    with dq.BrokerManager(found / "queue_data") as broker:
        with dq.Publisher(broker, "mails") as publisher:
            publisher.publish({"to": "ada"}, key="ada", topic="welcome", headers={"trace": "4711"})
            publisher.publish({"to": "bob"}, delay=timedelta(days=7))
            publisher.publish({"to": "eve"}, once="order-17", expires=300)
            publisher.publish(b"\x00\xff")
        with dq.Consumer(broker, "mails", sink="post", max_attempts=2, idle_timeout=0.2) as consumer:
            for task in consumer:
                if task.topic == "welcome":
                    task.retry(after=0, error="ValueError: no such address")
                else:
                    task.ack()
    return found


def test_every_command_finds_something(directory: Path) -> None:
    assert len(COMMANDS) == PAGE.count("queue_data/s") - PAGE.count("mails/*/*.jsonl queue_data/sinks")
    [checksums] = [block for block in BLOCKS if block.title]
    (directory / checksums.title).write_text(checksums.text)
    said = run_shell("".join(f"{command}\necho ---\n" for command in COMMANDS), directory).split("---\n")[:-1]
    assert len(said) == len(COMMANDS)
    for command, found in zip(COMMANDS, said, strict=True):
        assert found, command
    assert "are whole" in said[0]


def test_the_checksums_of_the_page_see_a_byte_that_was_changed(directory: Path) -> None:
    [segment] = (directory / "queue_data" / "streams" / "mails" / "0").iterdir()
    (directory / "spoiled.jsonl").write_bytes(segment.read_bytes().replace(b'"to":"ada"', b'"to":"bob"'))
    said = run_shell("python checksums.py spoiled.jsonl || echo refused", directory)
    assert "a wrong checksum" in said
    assert said.endswith("refused\n")


def test_the_page_names_every_field_of_a_header() -> None:
    drawn = [function.__doc__ or "" for function in (log_format.encode_batch, log_format.encode_segment)]
    names = {name for text in drawn for name in re.findall(r'"(\w+)":', text)}
    assert {"batch", "segment", "topics", "about", "synced", "publishers"} <= names
    assert unnamed(names | set(about._FORMS)) == []


def test_the_page_names_every_kind_of_note() -> None:
    kinds = {kind for module in (notes, later) for kind in re.findall(r'^    \{"(\w+)":', module.__doc__ or "", re.M)}
    assert len(kinds) > 30
    assert unnamed(kinds) == []


def test_the_page_names_every_setting_and_every_header_of_a_dead_letter() -> None:
    settings = {field.name for kind in (StreamSettings, SinkSettings) for field in fields(kind)}
    letter = DeadLetter(intent=0, stream="s", bucket=0, offset=0, attempts=1, reason="", error="E: e\ntrace", consumer="")
    assert unnamed(settings | set(letter.headers("post", 0))) == []


def test_the_page_names_every_file_of_a_directory(directory: Path) -> None:
    names = {path.name for path in (directory / "queue_data").rglob("*.*") if path.suffix != ".jsonl"}
    assert {"dq.json", "stream.json", "sink.json", "clean.json"} <= names
    assert [name for name in names if name not in PAGE] == []
    drawn = re.findall(r"[\w.]+\.(?:json|lock|sock)", Layout.__doc__ or "")
    assert [name for name in drawn if name not in PAGE] == []


def unnamed(names: set[str]) -> list[str]:
    """Those that do not stand as code in the page."""
    return sorted(name for name in names if f"`{name}`" not in PAGE)

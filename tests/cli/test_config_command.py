"""`dq config`, and what the settings of a directory do: to a broker, to clients, to the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from dq import BrokerManager, BrokerNotRunning, Consumer, InvalidSetting, Publisher, connect
from dq.cli.commands import COMMANDS, Commands
from dq.config import Limits
from dq.settings.setting import AT_START, Part
from dq.settings.table import SETTINGS
from dq.settings.values import Settings
from stage import kill, pids

TOML = (
    'buckets = 3\ndurability = "os"\nmax_attempts = 9\nack_grace = "45s"\npublish_timeout = "7s"\nreconnect_timeout = "11s"\n'
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerManager]:
    """A broker of a directory with settings of its own."""
    root = tmp_path_factory.mktemp("config") / "queue_data"
    root.mkdir()
    (root / "dq.toml").write_text(TOML)
    with BrokerManager(root) as broker:
        yield broker


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, in which there is nothing."""
    monkeypatch.delenv("DQ_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def edited(shop: BrokerManager) -> Iterator[Callable[[str], object]]:
    """Writes the file of the shop anew; at the end it is as it was."""
    yield (shop.root / "dq.toml").write_text
    (shop.root / "dq.toml").write_text(TOML)


def rows(out: str) -> dict[str, dict]:
    return {row["name"]: row for row in map(json.loads, out.splitlines())}


# --- the command -------------------------------------------------------------------------------------------------------
def test_it_shows_every_setting_its_value_where_from_and_why(dq, nowhere, monkeypatch) -> None:
    root = nowhere / "queue_data"
    root.mkdir()
    (root / "dq.toml").write_text(TOML)
    monkeypatch.setenv("DQ_MAX_AGE", "7d")
    ended = dq("config", "--set", "color=never")
    assert (ended.code, ended.err) == (0, "")
    first, _, head, *lines = ended.out.splitlines()
    assert first == f"data directory: {root} (found from here upwards)"
    assert head.split() == ["NAME", "VALUE", "FROM", "DEFAULT", "WHY"]
    assert [line.split()[0] for line in lines] == list(SETTINGS)
    shown = {line.split()[0]: line.split()[1:4] for line in lines}
    assert shown["buckets"] == ["3", "dq.toml:1", "1"]
    assert shown["max_age"] == ["1w", "DQ_MAX_AGE", "none"]
    assert shown["color"] == ["never", "--set", "auto"]
    assert shown["confirm"] == ["true", "default", "true"]
    assert all(SETTINGS[line.split()[0]].why in line for line in lines)


def test_as_json_it_is_an_object_a_line_and_the_limits_come_on_demand(dq, nowhere) -> None:
    found = rows(dq("config", "--json").out)
    assert list(found) == ["directory", *SETTINGS]
    assert found["directory"] == {
        "name": "directory", "value": str(nowhere / "queue_data"), "from": "default", "there": False, "variable": "DQ_DIR",
    }  # fmt: skip
    assert found["ack_grace"]["variable"] == "DQ_ACK_GRACE"
    everything = rows(dq("config", "--json", "--all").out)
    assert set(everything) == {*found, *Limits.__dataclass_fields__}
    assert everything["frame_bytes_max"]["why"] == "One frame on a pipe. Checked before anything is allocated."
    assert all(row["why"] for name, row in everything.items() if name != "directory")
    assert "One frame on a pipe" in dq("config", "--all").out
    assert list(nowhere.iterdir()) == []


def test_one_value_is_printed_alone(dq, nowhere, monkeypatch) -> None:
    monkeypatch.setenv("DQ_ACK_GRACE", "90s")
    assert dq("config", "ack_grace") == (0, "90s\n", "")
    assert dq("config", "DQ_ACK_GRACE", "--set", "ack_grace=2m") == (0, "2m\n", "")
    assert dq("config", "max_records") == (0, "none\n", "")
    assert dq("config", "directory") == (0, f"{nowhere / 'queue_data'}\n", "")
    assert json.loads(dq("config", "ack_grace", "--json").out)["from"] == "DQ_ACK_GRACE"
    unknown = dq("config", "ack_grac")
    assert (unknown.code, unknown.out) == (2, "")
    assert "did you mean 'ack_grace'?" in unknown.err


def test_it_says_what_the_broker_that_runs_was_started_with(dq, shop, monkeypatch) -> None:
    monkeypatch.setenv("DQ_DIR", str(shop.root))
    same = dq("config")
    assert (same.code, same.err) == (0, "")
    monkeypatch.setenv("DQ_BUCKETS", "4")
    monkeypatch.setenv("DQ_COLOR", "never")  # of the command line: no broker has it
    other = dq("config")
    assert other.err == (
        "dq: the broker that runs was started with buckets=3: by a flag, or before the settings were changed. What is shown "
        "here holds from its next start on\n"
    )
    assert "(DQ_DIR)" in other.out
    found = rows(dq("config", "--json").out)
    assert (found["buckets"]["value"], found["buckets"]["running"]) == ("4", "3")
    assert found["color"]["running"] is None
    assert set(shop.stats()["settings"]) == {each.name for each in SETTINGS.values() if each.part in AT_START}


# --- brokers and clients -------------------------------------------------------------------------------------------------
def test_new_streams_and_sinks_are_as_the_file_says_and_old_wishes_win(shop, name) -> None:
    settings = shop.stream(name).settings
    assert (settings.buckets, settings.durability, settings.retention) == (3, "os", "settled")
    assert shop.stream(f"{name}b", buckets=1, backend="memory").settings.durability == "memory"
    sink = shop.sink(name, name).stats().settings
    assert (sink.max_attempts, sink.ack_grace) == (9, 45)
    assert shop.sink(f"{name}b", name, max_attempts=2).stats().settings.max_attempts == 2
    with Publisher(shop, f"{name}c") as publisher:  # a stream that is made by the way
        assert publisher.publish(1).durability == "os"
    assert shop.stream(f"{name}c").settings.buckets == 3


def test_a_broker_that_is_replaced_keeps_what_its_manager_was_started_with(shop, name, edited) -> None:
    edited("buckets = 7\n")
    for pid in pids(shop):
        kill(pid)
    assert shop.stream(name).settings.buckets == 3
    assert shop.sink(name, name).stats().settings.max_attempts == 9


def test_clients_read_the_file_of_the_directory_that_they_connect_to(shop, name, monkeypatch) -> None:
    monkeypatch.setattr(Publisher, "line_of", lambda *_: b"{}")
    with Publisher(shop.root, name) as publisher:
        assert publisher.publish_timeout == 7
    monkeypatch.setenv("DQ_RECONNECT_TIMEOUT", "3s")
    with Consumer(shop, name, sink=name) as consumer:
        assert consumer._link._reconnect_timeout == 3
    with Consumer(shop, name, sink=name, reconnect_timeout=2) as consumer:
        assert consumer._link._reconnect_timeout == 2
    monkeypatch.setenv("DQ_RECONNECT_TIMEOUT", "3")
    with pytest.raises(InvalidSetting, match="DQ_RECONNECT_TIMEOUT"):
        Consumer(shop, name, sink=name)


@pytest.mark.parametrize("start", [BrokerManager, lambda root: connect(root, start=True)], ids=["BrokerManager", "connect"])
def test_with_a_broken_file_no_broker_is_started(tmp_path, start) -> None:
    (tmp_path / "dq.toml").write_text("buckets = 1\nbukets = 2\n")
    with pytest.raises(InvalidSetting, match=r"dq\.toml:2: there is no setting 'bukets'"):
        start(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["dq.toml"]
    with pytest.raises(BrokerNotRunning):
        connect(tmp_path)


# --- the command line ------------------------------------------------------------------------------------------------------
def test_with_a_broken_file_commands_end_with_2_and_its_line(dq, tmp_path) -> None:
    (tmp_path / "dq.toml").write_text("max_age = 7\n")
    for arguments in (["serve", tmp_path], ["status", "-d", tmp_path], ["publish", "s", "1", "--create", "-d", tmp_path],
                      ["config", "-d", tmp_path]):  # fmt: skip
        ended = dq(*arguments)
        assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
        assert f'{tmp_path / "dq.toml"}:1: max_age is a time, written with its unit as "30s", not 7' in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["dq.toml"]
    assert dq("stop", tmp_path).code == 69  # whatever the file says


def test_a_monitoring_system_hears_of_a_broken_file_in_time(dq, shop, edited, monkeypatch) -> None:
    monkeypatch.setenv("DQ_BUCKETS", "many")  # in the environment of the monitoring system, which is not the broker's
    assert dq("check", "-d", shop.root).code in (0, 1)
    edited("buckets = many\n")
    ended = dq("check", "-d", shop.root)
    assert (ended.code, ended.err) == (2, "")
    assert ended.out.startswith("DQ CRITICAL - its broker could not be started again: ")
    assert "at line 1" in ended.out


def test_serve_takes_flags_and_says_no_before_it_begins(dq, nowhere, monkeypatch) -> None:
    class Begun(Exception):
        """With these settings."""

    def manager(root: Path, *arguments: object, settings: Settings, **named: object) -> None:
        raise Begun(settings)

    monkeypatch.setattr("dq.cli.serve.Manager", manager)
    monkeypatch.setenv("DQ_BUCKETS", "2")
    with pytest.raises(Begun) as begun:
        dq("serve", "--set", "buckets=5", "--set", "max_age=1h")
    assert begun.value.args[0].wished(Part.STREAM) == {"buckets": 5, "max_age": 3600}
    assert (dq("serve", "--set", "buckets=0").code, list(nowhere.iterdir())) == (2, [])


def test_unknown_variables_are_refused_where_settings_are_the_matter(dq, nowhere, monkeypatch) -> None:
    monkeypatch.setenv("DQ_NONSENSE", "1")
    for command in ("serve", "config"):
        ended = dq(command)
        assert ended.code == 2
        assert "the variable DQ_NONSENSE is no setting of dq" in ended.err
    assert dq("streams").code == 69
    assert list(nowhere.iterdir()) == []


def test_colours_and_questions_are_settings(dq, shop, name, monkeypatch) -> None:
    monkeypatch.setenv("DQ_DIR", str(shop.root))
    monkeypatch.delenv("NO_COLOR", raising=False)
    shop.stream(name)
    assert "\x1b" not in dq("streams").out
    monkeypatch.setenv("DQ_COLOR", "always")
    assert "\x1b" in dq("streams").out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in dq("streams").out
    assert dq("stream", "destroy", name).code == 2
    assert name in shop.streams()
    monkeypatch.setenv("DQ_CONFIRM", "false")
    assert dq("stream", "destroy", name).code == 0
    assert name not in shop.streams()


def test_publish_waits_as_long_as_it_is_told(dq, shop, name, monkeypatch) -> None:
    monkeypatch.setenv("DQ_DIR", str(shop.root))
    assert dq("publish", name, "1", "--timeout", "5s").code == 0
    assert dq("publish", name, "--timeout", "5s", lines=b"1\n").code == 2


# --- who makes a data directory ----------------------------------------------------------------------------------------------
def walked(command: click.Command, above: tuple[str, ...]) -> Iterator[tuple[click.Command, tuple[str, ...]]]:
    """A command, or all those below it."""
    if not isinstance(command, click.Group):
        yield command, above
        return
    for name in command.list_commands(click.Context(command)):
        inner = command.get_command(click.Context(command), name)
        assert inner is not None
        yield from walked(inner, (*above, name))


# Of bench its own tests know that it leaves nothing: it is all in a directory that it deletes.
ALL = {names: each for each, names in walked(Commands("dq"), ()) if names[0] not in ("serve", "demo", "bench")}
FILE = "-"
NEEDED = {("publish",): ("1",), ("stream", "trim"): ("--max-records", "1"), ("repair",): ("--accept-loss",)}


def is_needed(param: click.Parameter) -> bool:
    return isinstance(param, click.Argument) and param.required


@pytest.mark.parametrize("names", ALL, ids=" ".join)
def test_no_command_but_serve_and_demo_makes_a_directory(dq, nowhere, names) -> None:
    needed = [f"--{param.name}=x" for param in ALL[names].params if isinstance(param, click.Option) and param.required]
    needed += [FILE if param.name == "file" else "x" for param in ALL[names].params if is_needed(param)]
    options = {option for param in ALL[names].params for option in param.opts}
    for more in ([], ["--start"] if "--start" in options else []):
        ended = dq(*names, *needed, *NEEDED.get(names, ()), *more)
        assert ended.code in ((0,) if names == ("config",) else (2, 65, 69, 74)), ended
        assert list(nowhere.iterdir()) == []
    if "--start" in options and names != ("work",):
        assert "say --create" in ended.err


def test_a_directory_that_is_not_there_is_told_of_with_what_to_do(dq, nowhere) -> None:
    ended, root = dq("streams"), nowhere / "queue_data"
    assert ended.code == 69
    assert ended.err.count("\n") == 1
    assert (
        f"no broker serves {root}, and there is no such directory: name the one you mean, as by --data or DQ_DIR" in ended.err
    )
    assert f"`dq serve {root}`" in ended.err


def test_create_makes_it(dq, nowhere) -> None:
    made = dq("publish", "orders", "1", "--create")
    assert (made.code, made.out) == (0, "orders/0/0\n")
    assert (nowhere / "queue_data" / "dq.json").is_file()
    assert dq("stop").code == 0
    assert set(COMMANDS) >= {names[0] for names in ALL}

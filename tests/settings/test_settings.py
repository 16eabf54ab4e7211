"""Settings: what each takes, who is stronger, and what is refused by name."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import example, given, strategies

from dq.cli import manual
from dq.errors import InvalidSetting, LogError
from dq.model.settings import SinkSettings, StreamSettings
from dq.settings.setting import Kind, Part
from dq.settings.table import SETTINGS
from dq.settings.units import size_of, size_text, time_of, time_text
from dq.settings.values import PLAIN, Settings, settings_of, with_defaults

ROOT = Path(__file__).parents[2]


def settings(root: Path, *flags: str, toml: str | bytes | None = None, strict: bool = False, **environ: str) -> Settings:
    """Those of a directory with such a file and such variables."""
    if toml is not None:
        (root / "dq.toml").write_bytes(toml if isinstance(toml, bytes) else toml.encode())
    return settings_of(root, flags, strict=strict, environ=environ)


# --- units -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("1.5h", 5400), ("20ms", 0.02), ("2m", 120), ("2min", 120), ("1 d", 86_400), ("1w", 604_800), ("0s", 0)],
)
def test_a_time_has_its_unit(text: str, seconds: float) -> None:
    assert time_of(text) == pytest.approx(seconds)
    assert time_of(time_text(seconds)) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("64MiB", 64 << 20),
        ("1kB", 1000),
        ("1.5GiB", 3 << 29),
        ("0B", 0),
        ("7B", 7),
        ("1TB", 10**12),
        ("4611686018427387904B", 1 << 62),
    ],
)
def test_a_size_has_its_unit(text: str, count: int) -> None:
    assert size_of(text) == count
    assert size_of(size_text(count)) == count


@pytest.mark.parametrize(
    "text", ["", "s", "90", "-1s", "90S", "1e3s", "1h30m", "90s ", "٣s", "1_000s", "9" * 30 + "s", "inf s"]
)
def test_what_is_no_time_is_none(text: str) -> None:
    assert time_of(text) is None
    assert size_of(text.replace("s", "B").replace("S", "b")) is None


@given(strategies.integers(0, 1 << 62))
def test_every_size_is_read_as_it_is_written(count: int) -> None:
    assert size_of(size_text(count)) == count


@given(strategies.floats(0.001, 1e10))
@example(999999999.9375)
@example(0.0)
def test_every_time_is_read_as_it_is_written(seconds: float) -> None:
    assert time_of(time_text(seconds)) == pytest.approx(seconds, rel=1e-6)


# --- the table -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_a_default_is_written_as_it_is_read(setting, tmp_path) -> None:
    text = setting.text_of(setting.default)
    assert setting.of_text(text) == setting.default
    found = settings(tmp_path, f"{setting.name}={text}")
    assert (found[setting.name], found.source(setting.name)) == (setting.default, "--set")
    assert setting.why.endswith((".", "!"))
    assert setting.variable == f"DQ_{setting.name.upper()}"


@pytest.mark.parametrize("name", [each.name for each in SETTINGS.values() if each.part in (Part.STREAM, Part.SINK)])
def test_the_limits_of_a_setting_are_those_of_streams_and_sinks(name) -> None:
    setting = SETTINGS[name]
    kind = StreamSettings if setting.part is Part.STREAM else SinkSettings
    if setting.kind is Kind.CHOICE:
        for each in set(setting.choices) - {"limits"}:
            assert getattr(kind(**{name: each}), name) == each
        return
    high = setting.high if setting.kind is Kind.TIME else int(setting.high)
    for value in (setting.low, high):
        assert getattr(kind(**{name: value}), name) == value
    for value in (setting.low - 1, high * 2):
        with pytest.raises(InvalidSetting):
            kind(**{name: value})


def test_the_page_has_every_setting_as_it_is() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert page == manual.with_settings(page), f"run `{manual.AGAIN}`"
    assert all(f"| `{name}` | `{setting.variable}` |" in page for name, setting in SETTINGS.items())


def test_the_file_of_the_page_is_one(tmp_path) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    toml = re.search(r"```toml\n(.*?)```", page, re.S)[1]
    found = settings(tmp_path, toml=toml)
    assert {name: SETTINGS[name].text_of(found[name]) for name in found.sources} == {
        "durability": "interval", "max_age": "1w", "keep_bytes": "200MiB", "max_attempts": "10", "log_format": "json",
    }  # fmt: skip


# --- who is stronger ---------------------------------------------------------------------------------------------------
def test_without_anything_all_is_as_dq_has_it(tmp_path) -> None:
    for root in (tmp_path, tmp_path / "nowhere", tmp_path / "nowhere" / "at all"):
        found = settings(root, DQ_MAX_AGE="", PATH="/bin")
        assert found == PLAIN
    assert (found.wished(Part.STREAM), found.wished(Part.SINK)) == ({}, {})
    assert (
        StreamSettings().to_dict().items()
        >= {name: found[name] for name in SETTINGS if SETTINGS[name].part is Part.STREAM}.items()
    )


def test_a_variable_is_stronger_than_the_file_and_a_flag_than_both(tmp_path) -> None:
    toml = '# ours\n\nbuckets = 2\nack_grace = "1m"\nmax_attempts = 1_0\n"confirm" = false\n'
    found = settings(tmp_path, "buckets=4", toml=toml, DQ_BUCKETS="3", DQ_MAX_ATTEMPTS="7")
    assert (found["buckets"], found.source("buckets")) == (4, "--set")
    assert (found["max_attempts"], found.source("max_attempts")) == (7, "DQ_MAX_ATTEMPTS")
    assert (found["ack_grace"], found.source("ack_grace")) == (60, "dq.toml:4")
    assert (found["confirm"], found.source("confirm")) == (False, "dq.toml:6")
    assert found.source("color") == "default"
    assert found.wished(Part.STREAM) == {"buckets": 4}
    assert found.wished(Part.SINK) == {"ack_grace": 60, "max_attempts": 7}


def test_the_file_is_read_again_only_when_it_has_changed(tmp_path, monkeypatch) -> None:
    assert settings(tmp_path, toml="buckets = 2")["buckets"] == 2
    with monkeypatch.context() as patch:
        patch.setattr("os.open", None)
        assert settings(tmp_path)["buckets"] == 2
    assert settings(tmp_path, toml="buckets = 17")["buckets"] == 17
    (tmp_path / "dq.toml").unlink()
    assert settings(tmp_path) == PLAIN


def test_what_says_one_thing_together_is_said_by_one(tmp_path) -> None:
    toml = 'retention = "limits"\nmax_age = "1h"\nmax_bytes = "1MiB"'
    assert settings(tmp_path, toml=toml).wished(Part.STREAM) == {"retention": "limits", "max_age": 3600, "max_bytes": 1 << 20}
    assert settings(tmp_path, DQ_RETENTION="forever").wished(Part.STREAM) == {"retention": "forever"}
    assert settings(tmp_path, "max_records=9", DQ_RETENTION="forever").wished(Part.STREAM) == {"max_records": 9}
    assert settings(tmp_path, "max_age=none").wished(Part.STREAM) == {"max_age": None}


def test_the_defaults_of_a_directory_give_way_to_what_is_asked_for() -> None:
    defaults = {"buckets": 4, "durability": "os", "retention": "forever"}
    assert with_defaults(defaults, {}) == defaults
    assert with_defaults(defaults, {"buckets": 1}) == {**defaults, "buckets": 1}
    assert with_defaults(defaults, {"backend": "memory"}) == {"buckets": 4, "retention": "forever", "backend": "memory"}
    assert with_defaults(defaults, {"max_age": 5.0}) == {"buckets": 4, "durability": "os", "max_age": 5.0}


# --- what is refused ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("bukets = 4", "dq.toml:1: there is no setting 'bukets'; did you mean 'buckets'?"),
        ("\n\ncolour = 'auto'", "dq.toml:3: there is no setting 'colour'; did you mean 'color'?"),
        ('"od d" = 1', "dq.toml:1: there is no setting 'od d'"),
        ("dir = '/x'", "no setting 'dir'"),
        ("[stream]\nbuckets = 4", "dq.toml:1: dq.toml has no sections, and no 'stream'"),
        ("stream.buckets = 4", "dq.toml:1: dq.toml has no sections"),
        ("buckets = 4.0", "dq.toml:1: buckets must be a whole number from 1 to 1024, not 4.0"),
        ("buckets = true", "not True"),
        ("buckets = '4'", "not '4'"),
        ("buckets = [4]", "not [4]"),
        ("buckets = 0", "from 1 to 1024, not 0"),
        ("max_age = 7", 'dq.toml:1: max_age is a time, written with its unit as "30s", not 7; units are ms, s, m'),
        ("max_age = '7'", "written with its unit as \"30s\", not '7'"),
        ("max_age = '7 days'", "not '7 days'; units are"),
        ("max_age = 1979-05-27", "written with its unit"),
        ("keep_bytes = 64", 'keep_bytes is a size, written with its unit as "64MiB", not 64; units are B, kB'),
        ("keep_bytes = '64mib'", "not '64mib'"),
        ("ack_grace = '9w'", "ack_grace must be a time from 50ms to 1w, not '9w'"),
        ("confirm = 'no'", "confirm must be true or false, not 'no'"),
        ("confirm = 1", "confirm must be true or false, not 1"),
        ("durability = 'memory'", "durability must be one of sync, interval, os, not 'memory'"),
        ("retention = 'none'", "retention must be one of"),
        ("retention = 'limits'", "needs max_records, max_bytes or max_age (retention by dq.toml:1)"),
        ("buckets = 1\nbuckets", "line 2"),
        ("buckets = 1\nbuckets = 2", "line 2"),
        ("x = \n", "line 1"),
        ("a = " + "[" * 5_000, "cannot be read"),
        ("a = " + "9" * 5_000, "cannot be read"),
        (b"# \xff\n", "line 1, is not UTF-8"),
        ("#" * 70_000, "over 65,536 bytes"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_file_that_is_wrong_is_refused_with_its_line(tmp_path, toml, says) -> None:
    with pytest.raises(InvalidSetting) as caught:
        settings(tmp_path, toml=toml)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value).strip()


@pytest.mark.parametrize(
    ("variable", "text", "says"),
    [
        ("DQ_BUCKETS", "4.5", "DQ_BUCKETS: buckets must be a whole number from 1 to 1024, not '4.5'"),
        ("DQ_BUCKETS", "4" * 5_000, "DQ_BUCKETS: buckets must be"),
        ("DQ_PUBLISH_TIMEOUT", "30", "DQ_PUBLISH_TIMEOUT: publish_timeout is a time, written with its unit"),
        ("DQ_CONFIRM", "yes", "DQ_CONFIRM: confirm must be true or false, not 'yes'"),
        ("DQ_BUKETS", "4", "the variable DQ_BUKETS is no setting of dq: did you mean 'buckets'?"),
        ("DQ_LOG_LEVELS", "", "the variable DQ_LOG_LEVELS is no setting"),
    ],
)
def test_a_variable_that_is_wrong_is_refused_by_its_name(tmp_path, variable, text, says) -> None:
    with pytest.raises(InvalidSetting) as caught:
        settings(tmp_path, **{variable: text})
    assert str(caught.value).startswith(says)


def test_other_variables_are_no_slips_but_where_settings_are_the_matter(tmp_path) -> None:
    others = {"DQ_REPORT": "x", "DQ_": "x"}
    known = {
        "DQ_DIR": "x", "DQ_STREAM": "s", "DQ_ATTEMPT": "1", "DQ_SERVICE_HOST": "10.0.0.1", "DQ_PORT": "tcp://10.0.0.1:80",
        "DQ_WEB_PORT_80_TCP_ADDR": "10.0.0.1", "DQX": "", "dq_buckets": "4",
    }  # fmt: skip
    assert settings(tmp_path, **others, **known) == PLAIN
    assert settings(tmp_path, strict=True, **known) == PLAIN
    for name in others:
        with pytest.raises(InvalidSetting, match=f"the variable {name} is no setting"):
            settings(tmp_path, strict=True, **{name: "x"})


@pytest.mark.parametrize(
    ("flag", "says"), [("buckets", "not NAME=VALUE"), ("bukets=1", "did you mean"), ("buckets=x", "--set: ")]
)
def test_a_flag_that_is_wrong_is_refused(tmp_path, flag, says) -> None:
    with pytest.raises(InvalidSetting, match=says):
        settings(tmp_path, flag)


def test_a_file_that_is_none_is_not_waited_for(tmp_path) -> None:
    os.mkfifo(tmp_path / "dq.toml")
    with pytest.raises(InvalidSetting, match="is no file"):
        settings(tmp_path)
    (tmp_path / "dq.toml").unlink()
    (tmp_path / "dq.toml").mkdir()
    with pytest.raises((InvalidSetting, LogError), match=r"dq\.toml"):
        settings(tmp_path)
    (tmp_path / "dq.toml").rmdir()
    (tmp_path / "dq.toml").symlink_to("dq.toml")
    with pytest.raises(LogError, match="cannot read"):
        settings(tmp_path)

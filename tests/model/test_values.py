"""Receipts as a sequence, settings that are checked and compared, names that are safe."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dq.errors import InvalidName, InvalidSetting, SettingsMismatch
from dq.model.names import check_name, check_new_stream, dead_letter_stream
from dq.model.outcome import Outcome
from dq.model.receipt import Receipt, Receipts, StoredRange
from dq.model.settings import SinkSettings, StreamSettings
from dq.model.task import TaskIn

RANGES = st.lists(st.builds(StoredRange, st.just("s"), st.integers(0, 2), st.integers(0, 9), st.integers(1, 5)), max_size=8)


@given(RANGES)
def test_receipts_are_the_sequence_of_all_their_ids(ranges):
    plain = [Receipt(f"s/{part.bucket}/{part.first + n}") for part in ranges for n in range(part.count)]
    receipts = Receipts(ranges)
    assert len(receipts) == len(plain)
    assert list(receipts) == plain
    assert [receipts[n] for n in range(len(plain))] == plain
    assert [receipts[n - len(plain)] for n in range(len(plain))] == plain
    assert receipts[1:7:2] == plain[1:7:2]
    assert receipts[::-1] == plain[::-1]
    assert list(reversed(receipts)) == plain[::-1]
    for outside in (len(plain), -len(plain) - 1):
        with pytest.raises(IndexError):
            receipts[outside]


def test_ranges_that_follow_each_other_are_kept_as_one():
    receipts = Receipts()
    for first in range(0, 1_000_000, 500):
        receipts.add(StoredRange("s", 0, first, 500))
    assert (len(receipts), len(receipts.ranges)) == (1_000_000, 1)
    assert receipts[999_999].id == "s/0/999999"
    receipts.add(StoredRange("s", 1, 1_000_000, 1))
    receipts.add(StoredRange("s", 1, 1_000_002, 1))
    assert len(receipts.ranges) == 3


def test_receipts_say_what_committed_means():
    assert Receipts([StoredRange("s", 0, 0, 1)], "os")[0] == Receipt("s/0/0", "os")
    assert Receipt("s/0/0").durability == "sync"


@pytest.mark.parametrize("settings", [StreamSettings(buckets=4, keep_seconds=1.5), SinkSettings(start="newest", ack_grace=7)])
def test_settings_come_back_from_their_dict(settings):
    assert type(settings).from_dict(settings.to_dict()) == settings
    settings.check_wish("stream", "s", settings.to_dict())
    settings.check_wish("stream", "s", {})


def test_what_is_left_out_takes_its_default():
    assert StreamSettings.from_dict({}) == StreamSettings()
    assert SinkSettings.from_dict({"max_attempts": 2}) == SinkSettings(max_attempts=2)


def test_an_unknown_setting_is_named_with_those_that_are_known():
    with pytest.raises(InvalidSetting, match=r"'colour'.*ack_grace"):
        SinkSettings.from_dict({"colour": 1})


@given(
    st.sampled_from(["buckets", "keep_seconds", "keep_bytes", "segment_bytes", "durability", "retention", "backend"]),
    st.sampled_from([None, True, -1, math.nan, math.inf, "x" * 0, [], {}, 2**70, b"x", object()]),
)
def test_a_setting_of_no_sense_is_refused_by_name(name, value):
    with pytest.raises(InvalidSetting, match=name):
        StreamSettings(**{name: value})


def test_a_differing_wish_shows_both():
    both = r"stream 's'.*buckets=1 \(asked for: 2\).*retention='settled' \(asked for: 'forever'\)"
    with pytest.raises(SettingsMismatch, match=both):
        StreamSettings().check_wish("stream", "s", {"buckets": 2, "retention": "forever", "keep_bytes": 1 << 30})
    with pytest.raises(InvalidSetting):  # a wish that could not be granted anywhere is that first of all
        StreamSettings().check_wish("stream", "s", {"buckets": 0})


SAFE = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,127}", fullmatch=True)


@given(SAFE)
def test_a_safe_name_is_taken_as_it_is(name):
    assert check_name("stream", name) == name


@given(st.text())
def test_whatever_is_taken_is_one_plain_file_name(name):
    try:
        check_name("stream", name)
    except InvalidName:
        return
    assert name.isascii()
    assert 1 <= len(name) <= 128
    assert not set(name) & set("/\\\0\n \t")
    assert name[0] not in ".-"
    assert ".." not in name


@pytest.mark.parametrize("suffix", ["-dlq", "-later"])
def test_names_of_dqs_own_streams_are_reserved(suffix):
    with pytest.raises(InvalidName):
        check_new_stream("emails" + suffix)
    assert dead_letter_stream("emails") == "emails-dlq"


def test_an_outcome_is_its_word():
    assert [str(outcome) for outcome in Outcome] == ["ack", "drop", "retry", "release", "dead_letter"]


def test_a_task_in_needs_a_payload_alone():
    assert TaskIn(1) == (1, None, None, "", None, None, None, 0, None)

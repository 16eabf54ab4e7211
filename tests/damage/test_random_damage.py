"""Bad input 5 to 12 and T7 at random: whatever happens to a log of 16 MiB, no record is served that was not written.

`pytest tests/damage --damages=100000 -s` for a long run; `--damage-seed=S` does the same damages again.

Nearly every damage is done to three neighbouring segments of the log, which are a log of their own (see `damage_bench`), every
250th to all of it. Not seen, since a file cannot show it: whole commits that are missing at the very end. They are what a sink
notices that was given records beyond the end.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from zlib import crc32

import pytest
from damage_bench import Judge, Window, fresh, table, write_log
from damages import DAMAGES, Damage

import dq.log.recovery
from dq.log.format import encode_batch
from stage import announce

LOG_BYTES = 16 << 20
WHOLE_LOG_EVERY = 250
OUTCOMES = ["refused", "cut", "shorter", "whole"]
# What leaves nothing but files that dq could have written: it cannot be told from a log that ends, or begins, there.
MAY_BE_SHORTER = {"batch_dropped", "bytes_deleted", "segment_missing", "segment_truncated"}


@pytest.fixture(scope="module")
def segments():
    return write_log(random.Random(20), LOG_BYTES)


@pytest.fixture
def judge(monkeypatch):
    return Judge(monkeypatch)


def a_window(chance: random.Random, segments: list, *, whole: bool) -> Window:
    if whole:
        return Window(segments)
    begin = chance.randrange(len(segments) - 2)
    return Window(segments[begin : begin + 3])


@pytest.mark.timeout(3600)  # of the long run; the usual one takes ten seconds
def test_no_damage_makes_dq_serve_what_was_not_written(segments, judge, pytestconfig, capsys):
    """T7, bad input 5 to 12, R1 to R5, R8: refused by name, or cut as a torn tail with the bytes kept; never anything else."""
    seed = pytestconfig.getoption("--damage-seed")
    seed = random.randrange(1_000_000) if seed is None else seed
    count, began = pytestconfig.getoption("--damages"), time.perf_counter()
    tally: dict[str, Counter[str]] = {damage.__name__: Counter() for damage in DAMAGES}
    for number in range(count):
        chance = random.Random(f"{seed}:{number}")
        damage: Damage = DAMAGES[number % len(DAMAGES)]
        window = a_window(chance, segments, whole=number % WHOLE_LOG_EVERY == WHOLE_LOG_EVERY - 1)
        files = damage(chance, window)
        try:
            outcome = judge.verdict(window, files, small=chance.random() < 0.5)
        except BaseException as error:
            raise AssertionError(f"--damage-seed={seed}, damage {number}, {damage.__name__}: {error!r}") from error
        tally[damage.__name__][outcome] += 1
        assert (outcome == "whole") is (files == window.files), f"--damage-seed={seed}, damage {number}: {outcome}"
    for name, outcomes in tally.items():
        assert not outcomes["shorter"] or name in MAY_BE_SHORTER, name
    total = sum(tally.values(), Counter())
    assert total.total() == count
    assert count < 1_000 or total["refused"] > count / 2 > total["cut"] > 0
    seconds = time.perf_counter() - began
    text = table([*tally.items(), ("all", total)], OUTCOMES)
    announce(capsys, f"\n{count:,} damages of seed {seed} in {seconds:.1f} s, 0 wrong records\n{text}\n")


def test_an_undamaged_log_is_whole(segments, judge):
    """T7: the judge finds nothing against what nobody touched."""
    for window in (Window(segments), Window(segments[3:6]), Window(segments[-1:])):
        for small in (False, True):
            assert judge.verdict(window, window.files, small=small) == "whole"


def test_the_judge_sees_a_record_that_was_not_written(segments, judge):
    """T7: a batch that somebody wrote anew, with right checksums, is what no recovery can see; the judge does."""
    window = Window(segments[:2])
    last, batch = window.last, window.last.batches[-1]
    lines = last.content[batch.lines : batch.stop].replace(b'"n":', b'"m":', 1)
    log = fresh({**window.files, last.name: last.content[: batch.begin]}).open()
    header, _ = encode_batch(batch.first, batch.count, len(lines), 1.5, "a", 999, b"", log._crc, crc32(lines))
    with pytest.raises(AssertionError):
        judge.verdict(window, {**window.files, last.name: last.content[: batch.begin] + header + lines}, small=False)


def test_the_judge_sees_a_cut_of_what_was_confirmed(segments, judge, monkeypatch):
    """T7: a recovery that takes any hole for a torn tail is found out."""
    monkeypatch.setattr(dq.log.recovery, "confirmed_after", lambda *_: None)
    window = Window([next(segment for segment in segments if len({batch.synced for batch in segment.batches}) > 3)])
    content = bytearray(window.last.content)
    hole = window.last.batches[0].lines // 512 * 512 + 512
    content[hole : hole + 512] = bytes(512)
    with pytest.raises(AssertionError, match="was written after"):
        judge.verdict(window, {window.last.name: bytes(content)}, small=False)

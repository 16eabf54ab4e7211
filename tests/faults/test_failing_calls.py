"""The system calls of a real broker fail: it tells what it does not know, ends with its exit code, and everything goes on."""

from __future__ import annotations

import random
import re
import time

import pytest
from history import Ok, Recv
from scripted_run import BATCH, BATCHES, STREAM
from traced_run import Run, check_run, need_strace, run_traced

from stage import announce


@pytest.fixture(autouse=True)
def _strace() -> None:
    need_strace()


def run_with(place, broker: str, *injections: str, seconds: float = 25.0) -> Run:
    place.mkdir()
    calls = sorted({call for injection in injections for call in injection.split(":")[0].split(",")})
    options = ["-e", f"trace={','.join(calls)}"]
    for injection in injections:
        options += ["-e", f"inject={injection}"]
    return run_traced(place, broker, options, seconds)


def receipts(run: Run) -> int:
    return sum(len(entry.ids) for entry in run.history if isinstance(entry, Ok))


def numbers(last: int, every_fault: bool, sample: int, seed: int) -> list[int]:
    return list(range(1, last + 1)) if every_fault else sorted(random.Random(seed).sample(range(1, last + 1), sample))


@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("call", ["fdatasync", "fsync"])
def test_a_failed_flush_ends_the_publisher_broker_with_its_code(call, tmp_path, every_fault, capsys):
    """T3; "fsync failure" 1 to 5: EIO at the Nth flush: exit 74, resent and answered by the next broker, lost 0."""
    began, met, seed = time.monotonic(), 0, random.SystemRandom().randrange(10**6)
    for number in numbers(20 if every_fault else 10, every_fault, 2, seed):
        place = tmp_path / str(number)
        run = run_with(place, "PUBLISHER_BROKER", f"{call}:error=EIO:when={number}")
        trace = (place / "trace").read_text()
        failed = re.search(r"sync\(\d+<([^>]*)>\).*INJECTED", trace)
        if failed is not None:
            met += 1
            assert run.errors or run.complaints, f"nobody said that {failed[1]} was not flushed"
            if re.search(rf"/{STREAM}(-dlq)?/\d", failed[1]):  # of records, and not of what is only being made
                assert "exit 74 (IO)" in run.errors, f"{call} {number}, {failed[1]}: {run.errors[-2_000:]}"
                assert run.stats["publisher_broker"]["restarts"] == 1, f"{call} {number}"
            _nothing_is_flushed_again(trace)
        check_run(place, run)
        assert receipts(run) + len(run.unanswered) == BATCH * BATCHES
    announce(capsys, f"\n{call} failed {met} times (seed {seed}); lost 0; {time.monotonic() - began:.1f} s\n")
    assert met


def _nothing_is_flushed_again(trace: str) -> None:
    failed = set()
    for line in trace.splitlines():
        path = re.search(r"sync\(\d+<([^>]*)>\)", line)
        if path is not None and re.search(r"/\d(/\d+\.jsonl)?$|/\d+\.jsonl$", path[1]):  # logs: not what is made anew
            assert path[1] not in failed, f"{path[1]} was flushed again after that had failed"
            if "INJECTED" in line:
                failed.add(path[1])


@pytest.mark.timeout(1_200)
def test_a_disk_that_is_full_for_a_while_is_told_and_publishing_goes_on(tmp_path, every_fault, capsys):
    """T4; "ENOSPC": writes that find no room: DiskFull, nobody ends, and the same records are published in the end."""
    began, full, seed = time.monotonic(), 0, random.SystemRandom().randrange(10**6)
    for number in numbers(10, every_fault, 2, seed):
        place = tmp_path / str(number)
        run = run_with(place, "PUBLISHER_BROKER", f"pwrite64,pwritev,pwritev2:error=ENOSPC:when={number + 1}..{number + 3}")
        full += run.full
        assert run.stats["publisher_broker"]["restarts"] == 0
        check_run(place, run)
    announce(capsys, f"\nENOSPC: DiskFull {full} times (seed {seed}); lost 0; {time.monotonic() - began:.1f} s\n")
    assert full


@pytest.mark.timeout(1_200)
def test_a_flush_of_the_sink_that_fails_ends_the_consumer_broker(tmp_path, every_fault, capsys):
    """T3: EIO at the Nth flush of a sink's log: its broker ends with 74, and what was confirmed since may come back."""
    began, met, seed = time.monotonic(), 0, random.SystemRandom().randrange(10**6)
    for number in numbers(8, every_fault, 2, seed):
        place = tmp_path / str(number)
        run = run_with(place, "CONSUMER_BROKER", f"fdatasync:error=EIO:when={number + 2}")  # the first two make the sink
        trace = (place / "trace").read_text()
        if "INJECTED" in trace:
            met += 1
            assert "exit 74 (IO)" in run.errors or "start: " in "".join(run.complaints), f"{number}: {run.errors[-2_000:]}"
            _nothing_is_flushed_again(trace)
        check_run(place, run)
    announce(capsys, f"\nthe sink's fdatasync failed {met} times (seed {seed}); lost 0; {time.monotonic() - began:.1f} s\n")
    assert met


@pytest.mark.timeout(1_200)
def test_a_write_that_says_it_took_what_it_did_not_is_found(tmp_path):
    """T5: a lying disk (the write returns a length, and nothing of it is there): refused in so many words, never served."""
    place = tmp_path / "lie"
    place.mkdir()
    segment = place / "q" / "streams" / STREAM / "0" / f"{0:020d}.jsonl"
    writes = "pwrite64,pwritev,pwritev2"
    options = ["-P", str(segment), "-e", f"trace={writes}", "-e", f"inject={writes}:retval=4096:when=2"]
    run = run_traced(place, "PUBLISHER_BROKER", options, seconds=3.0)
    told = run.errors + "".join(run.complaints)
    served = [entry for entry in run.history if isinstance(entry, Recv) and not entry.whole]
    assert served == []
    assert "INJECTED" in (place / "trace").read_text()
    assert str(segment.parent) in told, f"nobody said anything: {told}"

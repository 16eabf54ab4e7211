"""A broker is killed before its Nth system call of each kind, and everything goes on.

`pytest tests/faults --every-fault` takes every N, some hundred runs; by default a sample of them.
"""

from __future__ import annotations

import random
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest
from traced_run import BROKERS, CALLS, Run, check_run, need_strace, places_in_data, run_traced

from stage import announce

SAMPLE = 3  # runs a broker


@pytest.fixture(autouse=True)
def _strace() -> None:
    need_strace()


def trace_only(place: Path, broker: str) -> Run:
    place.mkdir()
    return run_traced(place, broker, ["-e", f"trace={','.join(CALLS)}"])


def points(place: Path, run: Run) -> dict[str, list[int]]:
    """By system call, at which of them a kill tells something: of the interpreter's own opens, none does."""
    found = {}
    for call, count in run.calls.items():
        found[call] = places_in_data(place, call) if call == "openat" else list(range(1, count + 1))
    return found


@pytest.mark.timeout(7_200)
@pytest.mark.parametrize("broker", BROKERS)
def test_a_kill_before_any_system_call_costs_nothing_that_was_confirmed(broker, tmp_path, every_fault, capsys):
    """T2; crash B1, B2, B3, B4, B5, B6a, B6b, B6c, B7, C1, C2, C3, C4, C5, C7: lost 0, unexpected 0, no ack undone."""
    began, healthy = time.monotonic(), trace_only(tmp_path / "healthy", broker)
    check_run_of(tmp_path / "healthy", healthy)
    everywhere = points(tmp_path / "healthy", healthy)
    seed = random.SystemRandom().randrange(10**6)
    chosen = [(call, n) for call, numbers in everywhere.items() for n in numbers]
    if not every_fault:
        chosen = sample(everywhere, random.Random(seed))
    done: Counter[str] = Counter()
    killed: Counter[str] = Counter()
    for call, number in chosen:
        place = tmp_path / f"{call}-{number}"
        place.mkdir()
        try:
            run = run_traced(place, broker, ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"])
            check_run(place, run)
        except AssertionError as error:
            raise AssertionError(f"{broker} killed before {call} {number} (seed {seed}): {error}") from error
        done[call] += 1
        killed[call] += run.killed
        shutil.rmtree(place)
    kinds = ", ".join(f"{call} {killed[call]}/{done[call]} of {len(everywhere[call])}" for call in sorted(done))
    seconds = time.monotonic() - began
    announce(capsys, f"\n{broker} killed {killed.total()} times (seed {seed}): {kinds}; lost 0; {seconds:.1f} s\n")
    assert killed.total() >= len(chosen) * 2 // 3, "most of these calls are made in every run"


def check_run_of(place: Path, run: Run) -> None:
    """A run in which nothing failed: it has all that a fault could meet."""
    assert run.complaints == []
    check_run(place, run)
    assert run.stats["publisher_broker"]["restarts"] == run.stats["consumer_broker"]["restarts"] == 0


def sample(everywhere: dict[str, list[int]], chance: random.Random) -> list[tuple[str, int]]:
    """Of every kind one, and of those that are many more, in proportion."""
    chosen = [(call, chance.choice(numbers)) for call, numbers in sorted(everywhere.items()) if numbers]
    rest = [(call, n) for call in ("pwritev", "pwritev2", "fdatasync", "fsync", "write") for n in everywhere.get(call, ())]
    chance.shuffle(chosen)
    return (chosen + chance.sample(rest, min(len(rest), SAMPLE)))[:SAMPLE]

"""Killed with -9 at random points: nothing pushed and returned is lost, nothing popped and returned is seen again."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from pathlib import Path

from dq import verify
from dq.embedded import PersistentQueue
from stage import announce

PROCESS = Path(__file__).with_name("queue_process.py")


class History:
    """What the killed processes said, and what must therefore be in the queue.

    Attributes:
        sure: items that were stored and are still to come out.
        unsure: items whose push, or whose pop, was under way at a kill: they may be there or not.
        gone: items that must never be seen again.
    """

    def __init__(self) -> None:
        self.sure: set[int] = set()
        self.unsure: set[int] = set()
        self.gone: set[int] = set()
        self.number = 0

    def hear(self, lines: list[str]) -> None:
        pending: list[int] = []
        popping = False
        for line in lines:
            word, *rest = line.split(" ")
            numbers = [int(part) for part in rest if part]
            if word == "pushing":
                pending = list(range(numbers[0], numbers[0] + numbers[1]))
                self.number = pending[-1] + 1
            elif word == "pushed":
                self.sure.update(pending)
                pending = []
            elif word == "popping":
                popping = True
            elif word in ("popped", "settled"):
                popping = False
                self.end(numbers)
            elif word == "taken":
                self.check(numbers)
                self.unsure.update(numbers)
                self.sure.difference_update(numbers)
        self.unsure.update(pending)
        if popping:  # the oldest may be gone, and nobody heard which
            oldest = sorted(self.sure)[:90]
            self.unsure.update(oldest)
            self.sure.difference_update(oldest)

    def check(self, numbers: list[int]) -> None:
        assert not self.gone.intersection(numbers), "seen again"
        assert self.sure.union(self.unsure).issuperset(numbers), "never pushed"
        assert numbers == sorted(numbers), "out of order"

    def end(self, numbers: list[int]) -> None:
        self.check(numbers)
        self.gone.update(numbers)
        self.sure.difference_update(numbers)
        self.unsure.difference_update(numbers)

    def compare(self, waiting: list[int]) -> None:
        """With what waits after a kill."""
        self.check(waiting)
        assert len(set(waiting)) == len(waiting), "twice"
        assert self.sure <= set(waiting), "lost"
        self.gone |= self.unsure - set(waiting)
        self.sure, self.unsure = set(waiting), set()


def killed_run(path: Path, seed: int, number: int, seconds: float) -> list[str]:
    """A process that works on the queue for some time and is killed; what it said."""
    command = [sys.executable, str(PROCESS), str(path), str(seed), str(number)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().rstrip("\n")]
        killer = threading.Timer(seconds, process.kill)
        killer.start()
        lines += [line.rstrip("\n") for line in process.stdout if line.endswith("\n")]
        killer.join()
    assert lines[0].startswith("open"), lines
    return lines


def test_nothing_is_lost_and_nothing_comes_twice_however_often_its_process_is_killed(path, pytestconfig, capsys) -> None:
    """R4: kill -9 at random points; --queue-kills=200 for the full number."""
    kills, seed = pytestconfig.getoption("--queue-kills"), pytestconfig.getoption("--queue-seed")
    seed = seed if seed is not None else random.randrange(1_000_000)
    chance, history = random.Random(seed), History()
    announce(capsys, f"\nqueue kills: {kills}, --queue-seed={seed}\n")
    for _ in range(kills):
        history.hear(killed_run(path, chance.randrange(1 << 30), history.number, chance.uniform(0.0, 0.15)))
        assert verify(path).faults == []
        queue = PersistentQueue(path)
        items = queue.take(1_000_000).__enter__()
        history.compare([int(item.partition(b":")[0]) for item in items])
        queue._store.abandon()  # nothing is settled by having looked
    assert history.gone

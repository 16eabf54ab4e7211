"""The crash test: under load one process after another is killed with -9, and at the end nothing may be lost.

`pytest tests/crash --crash-cycles=1000 --crash-seed=7 -s` for a long one, or the one that failed.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import orjson
from history import Acked, Entry, Info, Invoke, Ok, Recv, Verdict, check

from dq import BrokerManager, DqError
from stage import Child, announce, kill, marked, pids, until

HERE = Path(__file__).parent
STREAM, SINK, BUCKETS = "work", "workers", 3
# A wedge lasts for ever, a restart on a machine that does ten other things lasts seconds: the worst pause is printed.
WEDGED_SECONDS = 15.0
DRAIN_SECONDS = 60.0
TARGETS = ("manager", "publisher broker", "consumer broker", "publisher", "consumer")


class Teller(Child):
    """A publisher or a consumer whose lines are its history."""

    def __init__(self, program: str, name: str, arguments: list[object], env: dict[str, str]) -> None:
        self.name = name
        self.history: list[Entry] = []
        self.ended_well = False
        self.progress = 0
        self.complaints: list[str] = []
        self._asked: list[str] = []
        self._start([sys.executable, str(HERE / program), *map(str, arguments)], env, new_session=False)

    def _read(self) -> None:
        for line in self.process.stdout:
            if line.endswith(b"\n"):  # else it was killed while it said it
                self._note(*orjson.loads(line))

    def _note(self, kind: str, *what) -> None:
        if kind == "invoke":
            self._settle_open()
            self._asked = what[0]
            self.history.append(Invoke(what[0]))
        elif kind == "ok":
            self._asked = []
            self.progress += 1
            self.history.append(Ok(self.name, what[0], [(bucket, offset) for bucket, offset in what[1]], what[2]))
        elif kind == "recv":
            self.progress += 1
            at, record, (bucket, offset), attempt, whole = what
            self.history.append(Recv(at, self.name, record, (bucket, offset), attempt, whole))
        elif kind == "acked":
            self.history.append(Acked(what[0], self.name, what[1]))
        elif kind == "info":
            self._settle_open()
            self.complaints.append(f"{self.name}: {what[0]}")
        else:
            self.ended_well = True

    def _settle_open(self) -> None:
        if self._asked:
            self.history.append(Info(self._asked))
            self._asked = []


class Theatre:
    """All processes of one run."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.seed, self.marker = root, seed, f"DQ_CRASH_RUN={os.getpid()}-{seed}"
        self.rng = random.Random(seed)
        self.env = dict([self.marker.split("=")])
        self.births: Counter[str] = Counter()
        self.all: list[Teller] = []
        os.environ.update(self.env)  # so that the brokers have it too
        self.manager = BrokerManager(root)
        self.manager.stream(STREAM, buckets=BUCKETS, segment_bytes=1 << 20, keep_seconds=0)
        self.publishers = [self.publisher(0), self.publisher(1)]
        self.consumers = [self.consumer(0), self.consumer(1)]

    def publisher(self, slot: int) -> Teller:
        name = self._name(f"p{slot}")
        return self._born("publisher_process.py", name, [self.root, STREAM, name, f"{self.seed}{name}"])

    def consumer(self, slot: int) -> Teller:
        name = self._name(f"c{slot}")
        arguments = [self.root, STREAM, SINK, f"{self.seed}{name}", "auto" if slot else 7]
        return self._born("consumer_process.py", name, arguments)

    def _name(self, slot: str) -> str:
        self.births[slot] += 1
        return f"{slot}.{self.births[slot]}"

    def _born(self, program: str, name: str, arguments: list[object]) -> Teller:
        teller = Teller(program, name, arguments, self.env)
        self.all.append(teller)
        return teller

    def kill_one(self) -> str:
        target = self.rng.choice(TARGETS)
        if target == "manager":
            kill(self.manager.manager_pid)
            self.manager.stop()
            self.manager = BrokerManager(self.root)
        elif target == "publisher broker":
            kill(pids(self.manager)[0])
        elif target == "consumer broker":
            kill(pids(self.manager)[1])
        else:
            slot = self.rng.randrange(2)
            troupe = self.publishers if target == "publisher" else self.consumers
            troupe[slot].kill()
            troupe[slot] = self.publisher(slot) if target == "publisher" else self.consumer(slot)
        return target

    def await_progress(self, killed: str) -> float:
        """Everybody goes on: each publisher gets a receipt and some consumer a record; returns after how many seconds."""
        began = time.monotonic()
        published = [publisher.progress for publisher in self.publishers]
        received = sum(consumer.progress for consumer in self.consumers)

        def goes_on() -> bool:
            all_publish = all(p.progress > old for p, old in zip(self.publishers, published, strict=True))
            return all_publish and sum(consumer.progress for consumer in self.consumers) > received

        try:
            until(goes_on, WEDGED_SECONDS, f"progress after the {killed} was killed (seed {self.seed})")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self._who_is_stuck(published)}") from None
        return time.monotonic() - began

    def _who_is_stuck(self, published: list[int]) -> str:
        """What is to be known of a wedge: who has not gone on, where all clients stand, what the brokers say."""
        lines = [f"{p.name} stood at {old}, stands at {p.progress}" for p, old in zip(self.publishers, published, strict=True)]
        lines += [f"{consumer.name} stands at {consumer.progress}" for consumer in self.consumers]
        lines += [text for teller in self.all for text in teller.complaints][-10:]
        for teller in self.publishers + self.consumers:
            before = len(teller.errors)
            kill(teller.pid, signal.SIGUSR1)
            with contextlib.suppress(AssertionError):
                until(lambda t=teller, size=before: len(t.errors) > size + 200, 0.5)
            lines.append(f"--- {teller.name} (pid {teller.pid}):\n{teller.errors[-6_000:].decode()}")
        with contextlib.suppress(DqError):
            lines.append(orjson.dumps(self.manager.stats()).decode())
        return "\n".join(lines)

    def drain(self) -> None:
        """Publishers end, consumers go on until all is settled, then they end too."""
        self._end(self.publishers)
        until(self._is_drained, DRAIN_SECONDS, f"all is settled (seed {self.seed}): {self._figures()}")
        self._end(self.consumers)

    def _end(self, troupe: list[Teller]) -> None:
        for teller in troupe:
            teller.process.stdin.close()
        for teller in troupe:
            assert teller.wait(30) == 0, teller.errors.decode()
            assert teller.ended_well

    def _figures(self) -> dict:
        return self.manager.stats()["consumer_broker"]["sinks"][SINK]

    def _is_drained(self) -> bool:
        try:
            stats = self.manager.stats()
        except DqError:
            return False
        ends = stats["publisher_broker"]["streams"][STREAM]["ends"]
        shards = stats["consumer_broker"]["sinks"][SINK]["shards"]
        return [shards[f"{STREAM}/{bucket}"]["floor"] for bucket in range(BUCKETS)] == ends

    def stored(self) -> tuple[dict[tuple[int, int], str], int]:
        """What stands in the log, read as a person would: every line that has a payload; and how many there ever were."""
        found = {}
        ends = 0
        for bucket in range(BUCKETS):
            offset = None
            for segment in sorted((self.root / "streams" / STREAM / str(bucket)).glob("*.jsonl")):
                offset = int(segment.stem) if offset is None else offset
                assert offset == int(segment.stem), f"{segment} does not follow the one before it"
                for line in segment.read_bytes().splitlines():
                    if line.startswith(b'{"at":'):
                        found[bucket, offset] = orjson.loads(line)["payload"]["id"]
                        offset += 1
            ends += offset or 0
        return found, ends

    def close(self) -> None:
        for teller in self.all:
            teller.close()
        self.manager.stop()
        del os.environ[self.marker.split("=")[0]]
        try:
            until(lambda: not marked(self.marker), 2, "no process of ours is left after 2 s")
        finally:
            for pid in marked(self.marker):
                kill(pid)


def test_nothing_is_lost_however_processes_are_killed(tmp_path, request, capsys):
    """T1: each of the five kinds of processes, in any order, under load."""
    cycles = request.config.getoption("--crash-cycles")
    seed = request.config.getoption("--crash-seed")
    seed = random.SystemRandom().randrange(10**6) if seed is None else seed
    announce(capsys, f"\ncrash test: {cycles} cycles, --crash-seed={seed}\n")
    killed: Counter[str] = Counter()
    pauses: dict[str, list[float]] = {target: [] for target in TARGETS}
    began = time.monotonic()
    theatre = Theatre(tmp_path / "q", seed)
    try:
        theatre.await_progress("start")
        for _ in range(cycles):
            at = time.monotonic()
            target = theatre.kill_one()
            theatre.await_progress(target)
            killed[target] += 1
            pauses[target].append(time.monotonic() - at)
        theatre.drain()
        figures = theatre._figures()
        theatre.manager.stop()
        stored, ends = theatre.stored()
        history = [entry for teller in theatre.all for entry in teller.history]
    finally:
        theatre.close()  # fails when a process is left

    verdict = check(history)
    announce(capsys, _report(verdict, killed, pauses, figures, time.monotonic() - began))
    complaints = [text for teller in theatre.all for text in teller.complaints]
    assert verdict.faults == {}, f"seed {seed}; {complaints[:10]}"
    assert verdict.received == ends, "each record that was ever stored was received, and none stands at two places"
    assert len(set(stored.values())) == len(stored), "a record stands twice in the log"
    received = {entry.place: entry.id for entry in history if isinstance(entry, Recv)}
    assert stored.items() <= received.items(), "what was received is what stands in the log"
    assert verdict.stored > 10 * cycles


def _report(verdict: Verdict, killed: Counter[str], pauses: dict[str, list[float]], figures: dict, seconds: float) -> str:
    worst = ", ".join(f"{target} {n} (worst pause {max(pauses[target]):.2f} s)" for target, n in sorted(killed.items()))
    counts = {name: len(getattr(verdict, name)) for name in ("lost", "unexpected", "redelivered", "misplaced", "disordered")}
    return (
        f"  killed {sum(killed.values())}: {worst}\n"
        f"  published {verdict.invoked}, {verdict.stored} receipts, {verdict.received} received, {verdict.acked} acked\n"
        f"  {verdict.twice} came twice before their ack, {verdict.recovered} stored without a receipt\n"
        f"  {', '.join(f'{name} {count}' for name, count in counts.items())}, wedged 0, orphans 0\n"
        f"  the sink: redelivered {figures['redelivered']}, late acks {figures['late_acks']}; {seconds:.1f} s\n"
    )

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
from history import Acked, Entry, Info, Invoke, Ok, Read, ReadVerdict, Recv, Verdict, check, check_reading

from dq import BrokerManager, DqError
from stage import Child, announce, kill, marked, pids, until

HERE = Path(__file__).parent
BUCKETS = 4
# Of the first stream, what both sinks have settled is deleted while the test runs; the second one keeps everything.
STREAM, KEPT, SINKS = "work", "journal", ("workers", "auditors")
PUBLISHERS = (STREAM, STREAM, KEPT)
CONSUMERS = (("workers", 7), ("workers", "auto"), ("auditors", "auto"))  # (sink, prefetch)
# A wedge lasts for ever, a restart on a machine that does ten other things lasts seconds: the worst pause is printed.
WEDGED_SECONDS = 15.0
DRAIN_SECONDS = 60.0
TARGETS = ("manager", "publisher broker", "consumer broker", "publisher", "consumer", "reader")


class Teller(Child):
    """A publisher, a consumer or a reader whose lines are its history.

    Attributes:
        serves: the stream that a publisher or a reader has, the sink of a consumer.
        position: where a reader stands, as it last said.
    """

    def __init__(self, program: str, name: str, serves: str, arguments: list[object], env: dict[str, str]) -> None:
        self.name, self.serves = name, serves
        self.position = "oldest"
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
        elif kind == "read":
            self.progress += len(what[0])
            self.history += [Read(self.name, record, (bucket, offset), whole) for record, (bucket, offset), whole in what[0]]
            self.position = what[1]
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
        self.manager.stream(KEPT, buckets=BUCKETS, segment_bytes=1 << 20, retention="forever")
        self.publishers = [self.publisher(slot) for slot in range(len(PUBLISHERS))]
        self.consumers = [self.consumer(slot) for slot in range(len(CONSUMERS))]
        self.readers = [self.reader("oldest")]

    def publisher(self, slot: int) -> Teller:
        name, stream = self._name(f"p{slot}"), PUBLISHERS[slot]
        return self._born("publisher_process.py", name, stream, [self.root, stream, name, f"{self.seed}{name}"])

    def consumer(self, slot: int) -> Teller:
        name, (sink, prefetch) = self._name(f"c{slot}"), CONSUMERS[slot]
        return self._born("consumer_process.py", name, sink, [self.root, STREAM, sink, f"{self.seed}{name}", prefetch])

    def reader(self, position: str) -> Teller:
        """One that begins where another one was."""
        reader = self._born("reader_process.py", self._name("r"), KEPT, [self.root, KEPT, position])
        reader.position = position
        return reader

    def _name(self, slot: str) -> str:
        self.births[slot] += 1
        return f"{slot}.{self.births[slot]}"

    def _born(self, program: str, name: str, serves: str, arguments: list[object]) -> Teller:
        teller = Teller(program, name, serves, arguments, self.env)
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
            self._replace(target)
        return target

    def _replace(self, target: str) -> None:
        """Kills a client, and starts another in its place."""
        troupe = {"publisher": self.publishers, "consumer": self.consumers, "reader": self.readers}[target]
        slot = self.rng.randrange(len(troupe))
        killed = troupe[slot]
        killed.kill()
        if target == "reader":
            killed.close()  # all that it said is read by then, its last position too
            troupe[slot] = self.reader(killed.position)
        else:
            troupe[slot] = self.publisher(slot) if target == "publisher" else self.consumer(slot)

    def _progress(self) -> dict[str, int]:
        """What has to go on: each publisher, each sink by some consumer of it, and the reader."""
        found = {publisher.name: publisher.progress for publisher in self.publishers}
        for teller in (*self.consumers, *self.readers):
            kind = f"{'reader of' if teller in self.readers else 'sink'} {teller.serves}"
            found[kind] = found.get(kind, 0) + teller.progress
        return found

    def await_progress(self, killed: str) -> float:
        """Everybody goes on: each publisher gets a receipt, each sink and the reader a record; returns the seconds."""
        began = time.monotonic()
        before = self._progress()
        try:
            until(
                lambda: self._has_gone_on(before), WEDGED_SECONDS, f"progress after the {killed} was killed (seed {self.seed})"
            )
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self._who_is_stuck(before)}") from None
        return time.monotonic() - began

    def _has_gone_on(self, before: dict[str, int]) -> bool:
        now = self._progress()
        return all(now[who] > old for who, old in before.items())

    def _who_is_stuck(self, before: dict[str, int]) -> str:
        """What is to be known of a wedge: who has not gone on, where all clients stand, what the brokers say."""
        lines = [f"{who} stood at {before[who]}, stands at {now}" for who, now in self._progress().items()]
        lines += [text for teller in self.all for text in teller.complaints][-10:]
        for teller in self.publishers + self.consumers + self.readers:
            before_size = len(teller.errors)
            kill(teller.pid, signal.SIGUSR1)
            with contextlib.suppress(AssertionError):
                until(lambda t=teller, size=before_size: len(t.errors) > size + 200, 0.5)
            lines.append(f"--- {teller.name} (pid {teller.pid}):\n{teller.errors[-6_000:].decode()}")
        with contextlib.suppress(DqError):
            lines.append(orjson.dumps(self.manager.stats()).decode())
        return "\n".join(lines)

    def drain(self) -> None:
        """Publishers end, consumers and the reader go on until all is settled and read, then they end too."""
        self._end(self.publishers)
        until(self._is_drained, DRAIN_SECONDS, f"all is settled and read (seed {self.seed}): {self.figures()}")
        self._end(self.consumers + self.readers)

    def _end(self, troupe: list[Teller]) -> None:
        for teller in troupe:
            teller.process.stdin.close()
        for teller in troupe:
            assert teller.wait(30) == 0, teller.errors.decode()
            assert teller.ended_well

    def figures(self) -> dict[str, dict]:
        """Of each sink, what the broker counts."""
        sinks = self.manager.stats()["consumer_broker"]["sinks"]
        return {sink: sinks[sink] for sink in SINKS}

    def _is_drained(self) -> bool:
        try:
            stats = self.manager.stats()
            figures = self.figures()
        except (DqError, KeyError):
            return False
        ends = {name: stream["ends"] for name, stream in stats["publisher_broker"]["streams"].items()}
        floors = [[of["shards"][f"{STREAM}/{bucket}"]["floor"] for bucket in range(BUCKETS)] for of in figures.values()]
        return floors == [ends[STREAM]] * len(SINKS) and len(self.history(KEPT, Read)) >= sum(ends[KEPT])

    def history(self, serves: str, *kinds: type) -> list[Entry]:
        """What was said by all that ever served a stream or a sink, those that began earlier first."""
        said = [entry for teller in self.all if teller.serves == serves for entry in teller.history]
        return [entry for entry in said if isinstance(entry, kinds)] if kinds else said

    def stored(self, stream: str) -> tuple[dict[tuple[int, int], str], int]:
        """What stands in the log, read as a person would: every line that has a payload; and how many there ever were."""
        found = {}
        ends = 0
        for bucket in range(BUCKETS):
            offset = None
            for segment in sorted((self.root / "streams" / stream / str(bucket)).glob("*.jsonl")):
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
    """T1: each of the six kinds of processes, in any order, under load: two sinks of four buckets, and a reader.

    S: what a reader of a stream with retention="forever" has read, and those that went on at its position, is every committed
    record once and in order.
    """
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
        figures = theatre.figures()
        theatre.manager.stop()
        stored = {stream: theatre.stored(stream) for stream in (STREAM, KEPT)}
    finally:
        theatre.close()  # fails when a process is left

    verdicts = {sink: check(theatre.history(STREAM) + theatre.history(sink)) for sink in SINKS}
    reading = check_reading(theatre.history(KEPT))
    announce(capsys, _report(verdicts, reading, killed, pauses, figures, time.monotonic() - began))
    complaints = [text for teller in theatre.all for text in teller.complaints]
    faults = {who: verdict.faults for who, verdict in [*verdicts.items(), ("reader", reading)] if verdict.faults}
    assert faults == {}, f"seed {seed}; {complaints[:10]}"
    for sink, verdict in verdicts.items():
        _agrees_with_the_log(*stored[STREAM], {entry.place: entry.id for entry in theatre.history(sink, Recv)})
        assert verdict.stored > 8 * cycles
    left, ends = stored[KEPT]
    assert len(left) == ends, "what is kept for ever is all there"
    _agrees_with_the_log(left, ends, {entry.place: entry.id for entry in theatre.history(KEPT, Read)})


def _agrees_with_the_log(left: dict[tuple[int, int], str], ends: int, received: dict[tuple[int, int], str]) -> None:
    assert len(received) == ends, "each record that was ever stored was received, and none stands at two places"
    assert len(set(left.values())) == len(left), "a record stands twice in the log"
    assert left.items() <= received.items(), "what was received is what stands in the log"


def _report(
    verdicts: dict[str, Verdict],
    reading: ReadVerdict,
    killed: Counter[str],
    pauses: dict[str, list[float]],
    figures: dict[str, dict],
    seconds: float,
) -> str:
    worst = ", ".join(f"{target} {n} (worst pause {max(pauses[target]):.2f} s)" for target, n in sorted(killed.items()))
    kinds = ("lost", "unexpected", "redelivered", "misplaced", "disordered")
    lines = [f"  killed {sum(killed.values())}: {worst}"]
    for sink, verdict in verdicts.items():
        lines += [
            f"  {sink}: published {verdict.invoked}, {verdict.stored} receipts, "
            f"{verdict.received} received, {verdict.acked} acked",
            f"  {sink}: {verdict.twice} came twice before their ack, {verdict.recovered} stored without a receipt;"
            f" redelivered {figures[sink]['redelivered']}, late acks {figures[sink]['late_acks']}",
            f"  {sink}: {', '.join(f'{kind} {len(getattr(verdict, kind))}' for kind in kinds)}",
        ]
    kinds = ("lost", "unexpected", "repeated", "disordered", "misplaced")
    lines += [
        f"  reader: {reading.read} read, {reading.recovered} of them stored without a receipt; "
        f"{', '.join(f'{kind} {len(getattr(reading, kind))}' for kind in kinds)}",
        f"  wedged 0, orphans 0; {seconds:.1f} s",
    ]
    return "\n".join(lines) + "\n"

"""`publish(once=key)`: within its window a key stands once in its stream, whatever dies, and all its receipts are the same."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import orjson
import pytest

from dq import BrokerManager, InvalidSetting, OnceFull, Publisher, verify
from dq.broker.once import Once
from dq.broker.staged import Noted, Staged
from dq.clock import FakeClock
from dq.config import LIMITS, Limits
from dq.errors import DiskFull, DqError
from dq.log.catalog import Catalog
from dq.log.files import Files
from dq.log.storage import Batch
from dq.model.settings import StreamSettings
from stage import kill, pids, until

LINE = b'{"at":1.0,"payload":1}\n'


def stored(root: Path, stream: str) -> Counter[str]:
    """How often each key stands in the log."""
    keys: Counter[str] = Counter()
    for path in (root / "streams" / stream).glob("*/*.jsonl"):
        for line in path.read_bytes().splitlines():
            about = orjson.loads(line).get("about")
            keys.update([about["once"]] if about and "once" in about else [])
    return keys


def test_a_key_is_stored_once_and_answered_with_the_first_id(broker, name):
    """S, later there: a retried publish returns the first id. Two publishers, two buckets, one of them restarted."""
    broker.stream(name, buckets=2)
    with Publisher(broker, name) as ada, Publisher(broker, name) as bob:
        first = ada.publish({"n": 1}, once="a")
        again = [each.publish(n, key=str(n), once="a").id for n, each in enumerate((ada, bob, ada, bob))]
        assert again == [first.id] * 4
        other = bob.publish({"n": 2}, once="b")
        assert other.id != first.id
        racing = [each.submit(n, once=f"race-{n // 8}") for n in range(64) for each in (ada, bob)]
        ids = [future.result(10).id for future in racing]
        assert len(set(ids)) == 8
        assert all(len(set(ids[n : n + 16])) == 1 for n in range(0, 128, 16))
        plain = [ada.publish(n).id for n in range(3)]  # the numbers of other batches have no gap
        assert len(set(plain)) == 3
    assert set(stored(broker.root, name).values()) == {1}


def test_keys_survive_a_killed_broker_and_a_restart_of_all(tmp_path):
    root, seen = tmp_path / "queue_data", dict[str, str]()
    for start in range(3):
        with BrokerManager(root) as broker, Publisher(broker, broker.stream("orders", buckets=2).name) as publisher:
            publisher.publish("plain")
            for key, first in seen.items():
                assert publisher.publish("again", once=key).id == first
            futures = {f"{start}-{n}": publisher.submit(n, once=f"{start}-{n}") for n in range(300)}
            kill(pids(broker)[0])
            seen |= {key: future.result(20).id for key, future in futures.items()}
            assert {key: publisher.publish("again", once=key).id for key in list(seen)[::50]} == dict(list(seen.items())[::50])
            publisher.publish("plain")
    assert set(seen) == set(counted := stored(root, "orders"))
    assert set(counted.values()) == {1}
    assert verify(root).faults == []


def test_after_its_window_a_key_is_stored_anew(broker, name):
    broker.stream(name, once_seconds=0.1)
    with Publisher(broker, name) as publisher:
        first = publisher.publish(1, once="a")
        assert publisher.publish(1, once="a").id == first.id
        until(lambda: publisher.publish(1, once="a").id != first.id)


def test_a_stream_made_anew_knows_no_key_and_one_in_memory_works_alike(broker, name):
    broker.stream(name, backend="memory")
    with Publisher(broker, name) as publisher:
        assert publisher.publish(1, once="a").id == publisher.publish(2, once="a").id
        kill(pids(broker)[0])
        assert publisher.publish(3, once="a").id == f"{name}/0/0"
        publisher.publish(4, once="b")
        broker.stream(name).destroy()
        assert publisher.publish(5, once="b").id == f"{name}/0/0"


def test_what_users_trim_and_remove_is_still_known(tmp_path):
    root = tmp_path / "queue_data"
    with BrokerManager(root) as broker:
        stream = broker.stream("orders", segment_bytes=4096)
        with Publisher(broker, "orders") as publisher:
            ids = [publisher.publish("x" * 2000, once=f"k{n}").id for n in range(6)]
            stream.remove(ids[5])
            stream.trim(max_records=0)
            assert [publisher.publish("x", once=f"k{n}").id for n in range(6)] == ids
    with BrokerManager(root) as broker, Publisher(broker, "orders") as publisher:
        assert [publisher.publish("x", once=f"k{n}").id for n in range(6)] == ids


# --- one thread, a clock of its own ------------------------------------------------------------------------------------------


class Life:
    """What `Once` needs of its process."""

    def __init__(self, limits: Limits) -> None:
        self.clock, self.limits = FakeClock(wall=time.time()), limits


class Bench:
    """`Once` over a catalog; it commits when it is told to."""

    def __init__(self, root: Path, limits: Limits = LIMITS, clock: FakeClock | None = None, **settings: object) -> None:
        self.life = Life(limits)
        if clock is not None:
            self.life.clock = clock
        self.catalog = Catalog(Files(), root)
        self.catalog.open()
        self.stream = self.catalog.streams.get("s") or self.catalog.create("s", StreamSettings(**settings))
        self.once = Once(self.life, self.catalog, self._stage, self._join, self._refuse)
        self.staged: list[Staged] = []
        self.answers: list[tuple[int, object]] = []
        self._number = 0

    def _stage(self, client, stream, bucket, batch, noted: Noted) -> None:
        stored = stream.writers[bucket].append(batch)
        noted.stands(stored.first)
        self.staged.append(Staged(client, "s", bucket, batch, stored))
        self.staged[-1].noted = noted

    def _join(self, stream, staged: Staged) -> None:
        self.answers.append((staged.sequence, (staged.stored_bucket, staged.stored.first)))

    def _refuse(self, client, error: DqError, bucket: int, sequence: int) -> None:
        self.answers.append((sequence, type(error)))

    def take(self, key: str, bucket: int = 0) -> None:
        client = type("Client", (), {"stream": self.stream})()
        self.once.take(client, bucket, Batch("p", self._number, 1, LINE, about={"once": key}))
        self._number += 1

    def commit(self) -> None:
        for writer in self.stream.writers:
            writer.commit()
        self.staged.clear()

    def turns(self) -> None:
        while self.once.loading:
            self.once.turn()


@pytest.fixture
def made(tmp_path):
    root = tmp_path / "queue_data"
    root.mkdir(mode=0o700)
    return root


def test_one_more_key_than_the_limit_is_refused_by_name(made):
    bench = Bench(made, Limits(once_keys_max=2))
    bench.take("a")
    bench.take("b")
    with pytest.raises(OnceFull, match="knows the 2 keys of its last 300 s"):
        bench.take("c")
    bench.take("a")
    assert bench.answers == [(2, (0, 0))]
    bench.life.clock.advance(301)
    bench.take("c")
    assert len(bench.staged) == 3


def test_a_commit_that_fails_leaves_no_key(made):
    bench = Bench(made)
    bench.take("a")
    bench.staged.pop().noted.forget()
    bench.take("a")
    assert len(bench.staged) == 1
    assert bench.answers == []


@pytest.mark.parametrize(("jump", "known"), [(0, True), (-7200, True), (299, True), (301, False)])
def test_a_start_finds_the_keys_in_the_log_and_what_came_waits(made, jump, known):
    """A clock that was set back makes no key be forgotten."""
    bench = Bench(made, buckets=2)
    for n in range(20):
        bench.take(f"k{n}", n % 2)
    bench.commit()
    bench.catalog.close(clean=True)
    again = Bench(made, clock=FakeClock(wall=time.time() + jump))
    again.take("k7", 0)
    again.take("new", 1)
    again.take("new", 0)
    assert again.answers == []
    again.turns()
    assert ((0, (1, 3)) in again.answers) is known
    assert (2, (1, 10)) in again.answers
    assert len(again.staged) == (1 if known else 2)


def test_keys_that_cannot_be_read_are_not_taken_for_new(made):
    bench = Bench(made)
    bench.take("a")
    bench.commit()
    bench.catalog.close(clean=True)
    path = made / "streams" / "s" / "0" / f"{0:020d}.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"once":"a"', b'"once":"b"'))
    again = Bench(made)
    again.take("a")
    again.turns()
    assert [kind.__name__ for _, kind in again.answers] == ["Damaged"]
    assert again.staged == []


def test_a_disk_without_room_for_the_first_key_refuses_it(made, monkeypatch):
    bench = Bench(made)
    monkeypatch.setattr(Catalog, "keep_once", lambda *_: (_ for _ in ()).throw(DiskFull("no room")))
    with pytest.raises(DiskFull):
        bench.take("a")
    monkeypatch.undo()
    bench.take("a")
    assert len(bench.staged) == 1


def test_a_backend_without_batch_headers_refuses_keys_in_words(made, monkeypatch):
    bench = Bench(made)
    monkeypatch.setattr("dq.broker.once.BY_CLASS", "sync")
    with pytest.raises(InvalidSetting, match="keeps no keys"):
        bench.take("a")

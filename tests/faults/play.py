"""The script that both brokers play on a failing disk, and what must be true of any disk that it leaves."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

from faulty_memory import FaultyMemory
from sim_files import MemoryFiles
from two_brokers import BUCKETS, LAYOUT, STREAM, Brokers, Said, is_given_up

TURNS = 14


def litter(files: MemoryFiles) -> list[str]:
    """What is left half-done below the directory, but for what is kept in quarantine."""
    paths = [path for path in files.walk() if LAYOUT.quarantine not in path.parents]
    return [str(path) for path in paths if path.name.endswith((".tmp", ".making", ".gone", ".torn"))]


def one_turn(brokers: Brokers, turn: int, numbers: Iterator[int]) -> None:
    """Publishes to one bucket or both, sends a batch again, consumes, and now and then syncs and trims."""
    bucket = turn % BUCKETS
    brokers.publish(bucket, "p", list(itertools.islice(numbers, 3)))
    if turn % 3 == 1:
        brokers.publish(bucket, "q", [next(numbers)])
        brokers.publish(1 - bucket, "p", list(itertools.islice(numbers, 2)))
    brokers.commit()
    if turn % 4 == 2:
        brokers.publish_again(bucket, "p")
    brokers.consume()
    brokers.consume()
    if turn % 3 == 2:
        brokers.sync_and_trim()


def play(brokers: Brokers) -> None:
    """The script: two buckets roll, a batch comes twice, records are retried and given up, the sink's log rolls, segments go,
    there is a clean stop, and the publisher broker is killed once."""
    numbers = itertools.count()
    brokers.start()
    for turn in range(TURNS):
        one_turn(brokers, turn, numbers)
        if turn == TURNS // 3:
            brokers.stop()
            brokers.start()
        if turn == TURNS * 2 // 3:
            brokers.lose_publisher_broker()


def check(disk: MemoryFiles, said: Said, *, power_cut: bool) -> None:
    """Starts on what is left of a directory: all that was said must be true, and all that was asked is done in the end."""
    flushed = said.acked[: said.flushed] if power_cut else said.acked
    files = FaultyMemory.over(disk)
    brokers = Brokers(files, replace(said.now(), acked=flushed, flushed=0))
    brokers.start()
    assert not brokers.errors
    assert litter(files) == []
    _check_stored(brokers, said)
    for (bucket, publisher, sequence), numbers in sorted(said.asked.items()):
        brokers.sequences[bucket, publisher] += 1
        if numbers[0] not in said.receipts:
            brokers.queues.setdefault((bucket, publisher), []).append((sequence, numbers, True))
    brokers.finish()
    everything = {number for numbers in said.asked.values() for number in numbers}
    _check_stored(brokers, brokers.said)
    assert brokers.said.receipts.keys() == everything
    assert brokers.said.received == everything, "a record was never delivered"
    assert sorted(brokers.dead_letters()) == sorted(filter(is_given_up, everything)), "each dead letter stands once"
    brokers.stop()
    assert not brokers.errors
    assert litter(files) == []
    assert not files.open_count, "a file was left open"


def _check_stored(brokers: Brokers, said: Said) -> None:
    stored = brokers.stored()
    figures = brokers.run.core.stats()
    firsts = [writer.stats().first_offset for writer in brokers.catalog.streams[STREAM].writers]
    assert figures.missed == 0
    for bucket in range(BUCKETS):
        shard = figures.shards[STREAM, bucket]
        assert firsts[bucket] <= shard.floor <= shard.end, "what is trimmed is settled, and what is settled is stored"
    for number, (bucket, offset) in said.receipts.items():
        assert offset < firsts[bucket] or stored.get((bucket, offset)) == number, f"{number} had a receipt and is lost"
    assert len(set(stored.values())) == len(stored), "a record stands twice"
    where = {number: place for place, number in stored.items()}
    for (bucket, *_), numbers in said.asked.items():
        there = [where[number] for number in numbers if number in where]
        assert not there or there == [(bucket, there[0][1] + n) for n in range(len(numbers))], "half a batch is stored"
    assert set(stored.values()) <= {number for numbers in said.asked.values() for number in numbers}

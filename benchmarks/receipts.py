"""Records that are waited for one by one: one caller beside a bare sync loop, and many callers beside one."""

from __future__ import annotations

import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

from dq import Publisher
from floor import BareWrites
from measure import Bench, Counters, Row, Worker, payload, say, workers
from throughput import SINK, STREAM, consume


def publish_one(bench: Bench) -> list[Row]:
    """`publish()` in a loop, with no consumer and with one that handles and acks, beside write + `fdatasync` of the same line.

    The same publisher and the same broker serve all runs; the consumer comes and goes.
    """
    count = bench.records(2_000, 100)
    rates: dict[str, list[float]] = {"alone": [], "served": []}
    bare_rates: dict[str, list[float]] = {"alone": [], "served": []}
    with bench.broker() as broker, Publisher(broker, STREAM) as publisher, bench.directory("floor") as directory:
        bare = BareWrites(directory)
        for run in range(bench.runs):
            bare_rates["alone"].append(bare.rate(count))
            rates["alone"].append(_publish(publisher, count))
            counters = Counters(1)
            waiting = broker.stats()["publisher_broker"]["streams"][STREAM]["ends"][0]
            with workers(Worker(consume, broker.root, STREAM, f"{SINK}-{run}", counters.array, 0)):
                counters.reach(waiting)
                bare_rates["served"].append(bare.rate(count))
                rates["served"].append(_publish(publisher, count))
                counters.reach(waiting + count)
            say(f"publish_one {run + 1}: " + _seen(rates, bare_rates))
        bare.close()
    return [
        Row("publish_one", f"publish(), {what}", "records/s", rates[key], ">=", target, "bare sync loop", bare_rates[key])
        for key, what, target in (("alone", "no consumer", 0.60), ("served", "one consumer", 0.45))
    ]


def _seen(rates: dict[str, list[float]], bare_rates: dict[str, list[float]]) -> str:
    return ", ".join(f"{key} {rates[key][-1]:,.0f}/s, bare {bare_rates[key][-1]:,.0f}/s" for key in rates)


def _publish(publisher: Publisher, count: int) -> float:
    began = time.perf_counter()
    for n in range(count):
        publisher.publish(payload(n))
    return count / (time.perf_counter() - began)


# --- many callers ------------------------------------------------------------------------------------------------------


def threads64(bench: Bench) -> list[Row]:
    """64 threads on one `Publisher`, each waiting for every receipt, beside one thread."""
    ones, manies, seconds = [], [], bench.seconds(1.0)
    with bench.broker() as broker, Publisher(broker, STREAM) as publisher:
        for run in range(bench.runs):
            ones.append(_threads(publisher, 1, seconds))
            manies.append(_threads(publisher, bench.callers, seconds))
            say(f"threads64 {run + 1}: {manies[-1]:,.0f}/s, one {ones[-1]:,.0f}/s, ratio {manies[-1] / ones[-1]:.1f}")
    return [Row("threads64", f"publish() in {bench.callers} threads", "records/s", manies, ">=", 8, "one thread", ones)]


def _threads(publisher: Publisher, number: int, seconds: float) -> float:
    counts = [0] * number
    until = 0.0
    gate = threading.Barrier(number + 1)

    def loop(place: int) -> None:
        gate.wait()
        while time.perf_counter() < until:
            publisher.publish(payload(place))
            counts[place] += 1

    threads = [threading.Thread(target=loop, args=(place,)) for place in range(number)]
    for thread in threads:
        thread.start()
    began = time.perf_counter()
    until = began + seconds
    gate.wait()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began)


def processes64(bench: Bench) -> list[Row]:
    """64 processes, each with a `Publisher` and waiting for every receipt, beside one of them."""
    ones, manies, seconds = [], [], bench.seconds(1.0)
    with bench.broker() as broker:
        broker.stream(STREAM)
        with workers(*(Worker(_process, broker.root) for _ in range(bench.callers))) as made:
            for run in range(bench.runs):
                ones.append(_processes(made[:1], seconds))
                manies.append(_processes(made, seconds))
                say(f"processes64 {run + 1}: {manies[-1]:,.0f}/s, one {ones[-1]:,.0f}/s, ratio {manies[-1] / ones[-1]:.1f}")
    return [Row("processes64", f"publish() in {bench.callers} processes", "records/s", manies, ">=", 6, "one process", ones)]


def _processes(made: tuple[Worker, ...], seconds: float) -> float:
    began = time.perf_counter() + 0.1  # all are told by then
    for worker in made:
        worker.tell(began, began + seconds)
    answers = [worker.hear() for worker in made]
    return sum(count for count, _ in answers) / (max(ended for _, ended in answers) - began)


def _process(control: Connection, root: Path) -> None:
    with Publisher(root, STREAM) as publisher:
        control.send("ready")
        while True:
            began, until = control.recv()
            time.sleep(max(began - time.perf_counter(), 0.0))
            count = 0
            while time.perf_counter() < until:
                publisher.publish(payload(count))
                count += 1
            control.send((count, time.perf_counter()))

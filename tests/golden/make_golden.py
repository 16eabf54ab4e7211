"""Makes the data directory of one format that every later dq must open. Run by hand, once for each released format:

    python tests/golden/make_golden.py

It makes `format-<n>/clean` (stopped), `format-<n>/killed` (killed, with torn tails) and `format-<n>/expected.json`, which says
what stands in both. It refuses to make a format again: the files of a format that was released never change.
"""

from __future__ import annotations

import base64
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import orjson

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

from dq import BrokerManager, Consumer, Publisher  # noqa: E402
from dq.log.format import FORMAT  # noqa: E402
from stage import Child, kill, pids, sink_of, until  # noqa: E402

SMALL = {"segment_bytes": 4096, "keep_seconds": 10**9}
RECORDS = 60
HANDLED = 40
HELD = 3
LATER_SECONDS = 10**8
FAILED_SECONDS = 1.0
TORN = b'{"batch":60,"count":2,"bytes":410,"at":17'
HOLDER = f"""
import dq
with dq.connect(sys.argv[1]) as broker, dq.Consumer(broker, "emails", sink="mailers", prefetch={HELD}) as consumer:
    for task in consumer:
        say(task.id)
        heard()
"""


def payload_of(number: int) -> Any:
    """What record `number` of a stream carries: objects, texts in several scripts, numbers, nothing, bytes."""
    kinds: list[Any] = [
        {"n": number, "to": f"user{number}@example.org", "body": "x" * (number * 7 % 90)},
        bytes(range(number, number + 40)),
        ["ü", "日本語", "\u2028", "\x00", number],
        number * 10**12 + 0.5,
        None,
    ]
    return kinds[number % len(kinds)]


def fields_of(number: int) -> dict[str, Any]:
    """Its key, topic, name and headers; some have none."""
    return {
        "key": f"customer {number % 11}" if number % 3 else None,
        "topic": ("welcome", "invoice", None)[number % 3],
        "name": "greet" if number % 4 == 0 else "",
        "headers": {"trace": f"t{number}"} if number % 5 == 0 else None,
    }


def as_json(payload: Any) -> Any:
    """A payload as it stands in expected.json."""
    return {"base64": base64.b64encode(payload).decode()} if isinstance(payload, bytes) else {"json": payload}


def publish(broker: BrokerManager, stream: str, first: int, stop: int) -> dict[str, dict[str, Any]]:
    """Publishes records; by id what stands in them."""
    stored = {}
    with Publisher(broker, stream) as publisher:
        for number in range(first, stop):
            fields, payload = fields_of(number), payload_of(number)
            receipt = publisher.publish(payload, **fields)
            stored[receipt.id] = {"payload": as_json(payload), **fields, "headers": fields["headers"] or {}}
    return stored


def handle(broker: BrokerManager) -> dict[str, list[str]]:
    """Ends the first records of "emails" in every way there is; ids by what became of them."""
    became: dict[str, list[str]] = {"acked": [], "dropped": [], "delayed": [], "failed": [], "dead": []}
    with Consumer(broker, "emails", sink="mailers", prefetch=5, idle_timeout=5) as consumer:
        for task in consumer:
            if task.offset >= HANDLED:
                task.release()
                break
            if task.offset % 10 == 6:
                task.drop()
                became["dropped"].append(task.id)
            elif task.offset % 10 == 7:
                task.retry(after=LATER_SECONDS, error="the mail server is away")
                became["delayed"].append(task.id)
            elif task.offset % 10 == 8:
                task.retry(after=FAILED_SECONDS, error="ValueError: boom")
                became["failed"].append(task.id)
            elif task.offset % 20 == 9:
                task.dead_letter("no such address")
                became["dead"].append(task.id)
            else:
                task.ack()
                became["acked"].append(task.id)
    until(lambda: sink_of(broker, "mailers").get("dead_lettered") == len(became["dead"]), what="dead letters are stored")
    return became


def settle_some_orders(broker: BrokerManager) -> list[str]:
    """A second sink over the stream of three buckets settles every other record of the first it gets."""
    settled, others = [], []
    with Consumer(broker, "orders", sink="auditors", idle_timeout=1) as consumer:
        for task in consumer:
            if task.offset % 2:
                task.ack()
                settled.append(task.id)
            else:
                others.append(task)
            if len(settled) == 10:
                break
        for task in others:
            task.release()
    return settled


def make(root: Path, *, clean: bool) -> dict[str, Any]:
    """One data directory and what stands in it."""
    broker = BrokerManager(root)
    broker.stream("emails", **SMALL)
    broker.stream("orders", buckets=3, **SMALL)
    records = publish(broker, "emails", 0, RECORDS // 2)
    records |= publish(broker, "orders", 0, RECORDS // 2)
    end_by_kill(broker)
    # The first unclean start: an epoch is raised, a torn tail goes to quarantine.
    last_segment(root, "orders/1").open("ab").write(b'{"batch":9')
    broker = BrokerManager(root)
    records |= publish(broker, "emails", RECORDS // 2, RECORDS)
    records |= publish(broker, "orders", RECORDS // 2, RECORDS)
    became = handle(broker)
    orders = settle_some_orders(broker)
    with Child(HOLDER, root) as holder:
        until(lambda: sink_of(broker, "mailers")["shards"]["emails/0"]["in_hand"] == HELD, what="a consumer holds tasks")
        held = holder.hear()
        if clean:
            broker.stop()
        else:
            end_by_kill(broker)
    if not clean:
        last_segment(root, "emails/0").open("ab").write(TORN)
    return {"records": records, "became": became, "orders_settled": orders, "held": held}


def end_by_kill(broker: BrokerManager) -> None:
    """Nobody gets to leave in order: the manager is stopped before its brokers are killed."""
    parts = pids(broker)
    kill(broker.manager_pid, signal.SIGSTOP)
    for pid in (*parts, broker.manager_pid):
        kill(pid)
    broker.stop()


def last_segment(root: Path, bucket: str) -> Path:
    return max((root / "streams" / bucket).glob("*.jsonl"))


def keep(root: Path, target: Path) -> None:
    """Copies what belongs to the format: no locks, no socket, and not the room that is kept free beside the sinks."""
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.name not in ("reserve", "manager.place") and not path.name.endswith((".lock", ".pid")):
            copy = target / path.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def main() -> None:
    """Makes all of a format."""
    target = HERE / f"format-{FORMAT}"
    if target.exists():
        sys.exit(f"{target} is there already, and what was released never changes")
    expected = {}
    with tempfile.TemporaryDirectory() as directory:
        for name in ("clean", "killed"):
            root = Path(directory) / name
            expected[name] = make(root, clean=name == "clean")
            keep(root, target / name)
    (target / "expected.json").write_bytes(orjson.dumps(expected).replace(b'},"', b'},\n"') + b"\n")
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    sys.stdout.write(f"{target}: {size / 1024:.0f} KiB\n")


if __name__ == "__main__":
    main()

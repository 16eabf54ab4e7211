"""Secrets are planted in payloads, keys, headers and errors, all goes wrong that can, and none of them is in any log."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

import dq
from dq.app import AppConfig
from dq.cli.log_options import _wish_of, again
from dq.embedded import NonBlockingPersistentQueue
from dq.model.about import check_about
from dq.model.event import decode
from dq.model.told import words_of
from dq.operator_logs import LogWish
from stage import until

PLANTED = "s3cr3t"
TASKS = """
import asyncio
import logging

from dq import App, Task
from dq.app import AppConfig

app = App(sink="w", config=AppConfig(handler_max_attempts=1))

@app.handler("jobs", timeout=0.05)
def plain(job, task: Task):
    logging.getLogger("users").info("the user's own line")
    raise ValueError(f"{task.key} {task.headers} {job}")

@app.handler("jobs")
async def waiting(job, task: Task):
    await asyncio.sleep(0)
    raise KeyError(job["card"]) from RuntimeError(task.key)

@app.handler("jobs", processes=1)
def apart(job, task: Task):
    raise OSError(5, job["card"], task.key)

@app.handler("jobs")
def onwards(job, task: Task):
    app.publish("jobs", {"card": float("nan"), job["card"]: float("inf")}, key=task.key)

@app.handler("jobs")
def typed(job: int, task: Task):
    return None
"""


def planted(publisher: dq.Publisher, count: int = 1) -> None:
    for n in range(count):
        publisher.publish(
            {"card": f"{PLANTED}-card-{n}"}, key=f"{PLANTED}-key", name=f"{PLANTED}-name",
            headers={"authorization": f"{PLANTED}-header"}, once=f"{PLANTED}-once-{n}",
        )  # fmt: skip


class Heard:
    """All that processes write to standard error meanwhile. (`capfd` loses what is written while it is asked.)

    For the body of a test: pytest sets the descriptor anew between that and its fixtures.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = os.dup(2)
        with path.open("ab") as file:
            os.dup2(file.fileno(), 2)

    def all(self) -> str:
        """What was written until now."""
        return self._path.read_text("utf-8", "replace")

    def __enter__(self) -> Heard:
        return self

    def __exit__(self, *_: object) -> None:
        os.dup2(self._before, 2)
        os.close(self._before)


@contextlib.contextmanager
def command(*arguments: str, cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command that runs until it is stopped by SIGTERM."""
    with subprocess.Popen(
        [sys.executable, "-m", "dq.main", *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=cwd, env={**os.environ, "PYTHONPATH": str(cwd)},
    ) as process:  # fmt: skip
        try:
            yield process
            process.send_signal(signal.SIGTERM)
            process.wait(15)
        finally:
            process.kill()


def all_goes_wrong(tmp_path: Path, heard: Heard) -> None:
    root = tmp_path / "queue_data"
    (tmp_path / "secret_tasks.py").write_text(TASKS)
    with dq.BrokerManager(root) as broker:
        with dq.Publisher(broker, "jobs") as publisher:
            planted(publisher)
        # When every kind of handler fails until its records are dead letters
        with command("work", "secret_tasks:app", "-d", str(root), "-vv", cwd=tmp_path) as work:
            until(lambda: dead(broker, ("plain", "waiting", "apart", "onwards", "typed")), 20)
        assert work.returncode == 0
        # And processes are asked for their stacks, and a broker is killed
        os.kill(broker.manager_pid, signal.SIGUSR1)
        until(lambda: "Current thread" in heard.all())
        os.kill(broker.stats()["publisher_broker"]["pid"], signal.SIGKILL)
        until(lambda: "is started again" in heard.all())
    # And logs are damaged while nobody serves them
    spoil(root / "streams" / "jobs" / "0", b'"bytes":', b'"bytes":9')
    spoil(root / "sinks" / "w.plain", b'"cursor":0', b'"cursed":0')
    with command("serve", str(root), cwd=tmp_path):
        until(lambda: "stream jobs is closed" in heard.all() and "sink w.plain is closed" in heard.all())


def test_no_payload_key_or_header_is_in_any_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DQ_LOG_LEVEL", "debug")
    monkeypatch.setenv("DQ_LOG_FORMAT", "json")
    with Heard(tmp_path / "standard_error") as heard:
        all_goes_wrong(tmp_path, heard)
    # Then the logs tell of all that
    lines = [orjson.loads(line) for line in heard.all().splitlines() if line.startswith("{")]
    failures = [line for line in lines if "failed at task" in line["message"]]
    assert {line["handler"] for line in failures} == {"plain", "waiting", "apart", "onwards"}
    assert {line["error"] for line in failures} == {"ValueError", "KeyError", "OSError", "InvalidPayload"}
    assert {line["process"] for line in lines} >= {"manager", "publisher broker", "consumer broker", "app"}
    assert any(line["logger"] == "users" for line in lines)
    assert any("traceback" in line and "secret_tasks.py" in line["traceback"] for line in lines)
    # And say nothing of what was in the records
    assert PLANTED not in heard.all()


def spoil(directory: Path, good: bytes, bad: bytes) -> None:
    """Damages the first log of a directory."""
    file = min(directory.glob("*.jsonl"))
    raw = file.read_bytes()
    assert good in raw
    file.write_bytes(raw.replace(good, bad, 1))


def dead(broker: dq.Broker, handlers: tuple[str, ...]) -> bool:
    sinks = broker.stats()["consumer_broker"].get("sinks", {})
    return all(sinks.get(f"w.{name}", {}).get("dead_lettered", 0) == 1 for name in handlers)


def test_nothing_is_in_what_a_library_says_either(
    broker: dq.BrokerManager, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where a program sets up logging itself, with its tracebacks and all."""

    def fail(what: object) -> None:
        raise ValueError(f"{PLANTED} {what}")

    with caplog.at_level(logging.DEBUG, "dq"):
        # When a callback of a receipt, a listener and handlers fail
        with dq.Publisher(broker, name) as publisher:
            future = publisher.submit({"card": PLANTED}, key=PLANTED, headers={"h": PLANTED})
            future.result(10)
            future.add_done_callback(fail)
        app = dq.App(broker, sink=name, config=AppConfig(handler_max_attempts=1))
        app.handler(name, name="sync")(lambda payload: fail(payload))

        @app.handler(name, name="async")
        async def fail_later(payload: object) -> None:
            fail(payload)

        app.run(burst=True)
        with broker.listen(name, fail):
            for _ in range(3):
                broker.broadcast(name, {"card": PLANTED}, mode="best")
            until(lambda: "failed 3 times in a row" in caplog.text)
        # And an operation of a queue that nobody asks about
        with NonBlockingPersistentQueue(tmp_path / "queue", max_elements=1) as queue:
            queue.push([PLANTED.encode(), PLANTED.encode()])
            queue.push([PLANTED])
            queue.len.get()
            gc.collect()
    said = [record.getMessage() for record in caplog.records]
    assert len([line for line in said if "failed at task" in line]) == 2
    assert "the callback of a receipt failed: ValueError at test_no_secrets.py" in caplog.text
    assert caplog.text.count("nobody asked for its outcome") == 2
    assert PLANTED not in caplog.text
    assert PLANTED not in str([vars(record).get("dq") for record in caplog.records])


def test_a_frame_that_is_no_event_is_not_quoted() -> None:
    """The broker logs why it cuts a client off."""
    for frame in ({"type": PLANTED, "owner": PLANTED}, {"type": "WRITE", "owner": "PUBLISHER", "about": {"once": PLANTED}}):
        with pytest.raises(dq.ProtocolError) as refused:
            decode(orjson.dumps(frame) + b"\n")
        assert PLANTED not in words_of(refused.value)
    with pytest.raises(dq.ProtocolError) as refused:
        check_about({"once": [PLANTED]}, 1)
    assert PLANTED not in words_of(refused.value)


def test_an_error_that_ends_serve_is_a_line_of_json_too(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    done = subprocess.run(
        [sys.executable, "-m", "dq.main", "serve", str(tmp_path / "file"), "--log-format", "json"],
        capture_output=True,
        check=False,
    )
    (line,) = [orjson.loads(line) for line in done.stderr.splitlines()]
    assert line["level"] == "CRITICAL"
    assert done.returncode == 74


@pytest.mark.parametrize(
    ("options", "wish"),
    [
        ((0, 0), LogWish(20, "auto")),
        ((1, 0), LogWish(10, "auto", 20)),
        ((2, 0), LogWish(10, "auto", 10)),
        ((0, 1), LogWish(30, "auto", 30)),
        ((0, 2), LogWish(40, "auto", 40)),
        ((0, 9), LogWish(40, "auto", 110)),
    ],
)
def test_v_and_q_are_steps(options: tuple[int, int], wish: LogWish) -> None:
    usual = LogWish(20, "auto")
    assert _wish_of(usual, 20, *options) == wish
    # And another process of the same command is told the same
    words = again(wish)
    verbose, quiet = (sum(word.count(letter) for word in words if word in ("-v", "-vv", "-q", "-qq")) for letter in "vq")
    assert (_wish_of(usual, 20, verbose, quiet).level, words[-1]) == (wish.level, wish.form)

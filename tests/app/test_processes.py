"""Handlers in processes of their own, and timeouts of all kinds of handlers."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import process_jobs
import pytest

import dq
from dq import App, BrokerManager, NotImportable
from dq.app.handler import Handler
from dq.app.importing import origin_of
from stage import Child, Threaded, alive, kill, until

SCRIPT = """\
import os, sys
from dq import App
app = App(sys.argv[1], sink="script")

@app.handler("{stream}", processes=1)
def work(job):
    os.write(1, b"%d %s\\n" % (os.getpid(), __name__.encode()))

{run}
"""


def lines_of(file: Path) -> list[list[str]]:
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def dead_letters(broker: BrokerManager, stream: str) -> list[dq.Record]:
    with broker.reader(f"{stream}-dlq", start="oldest", follow=False) as reader:
        return list(reader)


@pytest.fixture
def app_of(broker: BrokerManager, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> App:
    """One of the apps of `process_jobs`, over the broker of these tests."""
    app: App = getattr(process_jobs, request.param)
    app._engine = None
    app.move(broker)
    return app


@pytest.mark.parametrize("app_of", ["hard"], indirect=True)
def test_what_kills_its_worker_burns_its_own_attempts_and_no_others(app_of: App, broker: BrokerManager, tmp_path: Path) -> None:
    """H3, H4: os._exit, a segfault, kill -9, a timeout, no memory, an exception, among 200 good ones."""
    file = str(tmp_path / "seen")
    bad = ["exit", "segfault", "killed", "sleep", "memory", "raise", "sys.exit"]
    good = [{"n": number, "file": file} for number in range(200)]
    with dq.Publisher(broker, "hard") as publisher:
        publisher.publish_many([*good[:100], *({"how": how, "file": file} for how in bad), *good[100:]])
    # When the app works them off
    app_of.run(burst=True)
    # Then each good one was handled once, at its first attempt
    seen = lines_of(tmp_path / "seen")
    assert Counter(line[0] for line in seen if line[0].isdigit()) == Counter(str(number) for number in range(200))
    assert {line[1] for line in seen if line[0].isdigit()} == {"1"}
    # And each bad one was tried twice, and is one dead letter that says what it did
    assert Counter(line[0] for line in seen if not line[0].isdigit()) == Counter(dict.fromkeys(bad, 2))
    errors = {letter.payload["how"]: letter.headers["dq-error"] for letter in dead_letters(broker, "hard")}
    assert len(dead_letters(broker, "hard")) == len(bad)
    assert errors["exit"].endswith("ended with exit code 3")
    assert errors["segfault"].endswith("was killed by SIGSEGV")
    assert errors["killed"].endswith("was killed by SIGKILL")
    assert errors["sleep"] == "HandlerTimeout: it ran longer than 0.3 s, and was killed"
    assert errors["memory"].startswith("MemoryError")
    assert errors["raise"] == "ValueError: \\udc80 not to be written"
    assert errors["sys.exit"] == "SystemExit: 1"
    # And what the sleeping one had started is gone
    assert subprocess.run(["pgrep", "-f", "^sleep 61.25$"], capture_output=True).stdout == b""


@pytest.mark.parametrize("app_of", ["verbs"], indirect=True)
def test_a_handler_in_a_process_has_the_task_and_its_verbs(app_of: App, broker: BrokerManager, tmp_path: Path) -> None:
    """H2: coroutine functions, outcomes, verbs, bytes."""
    file = str(tmp_path / "seen")
    for how in ("drop", "retry", "verb", "nonsense"):
        app_of.publish("verbs", {"how": how, "file": file})
    app_of.publish("verbs", file.encode(), topic="t", headers={"a": "b"})
    app_of.run(burst=True)
    assert sorted(map(" ".join, lines_of(tmp_path / "seen"))) == [
        "bytes verbs/0/4 t b 4 datetime",
        "drop 1 None",
        "nonsense 1 None",
        "retry 1 None",
        "retry 2 later",
        "verb 1 None",
    ]
    reasons = [letter.headers["dq-reason"] for letter in dead_letters(broker, "verbs")]
    assert sorted(reason.split(":")[0] for reason in reasons) == ["TypeError", "by its verb"]


@pytest.mark.parametrize("app_of", ["slow"], indirect=True)
def test_a_stop_waits_for_a_worker_and_a_second_one_does_not(app_of: App, broker: BrokerManager, tmp_path: Path) -> None:
    """H9, and a worker that dies idle is replaced."""
    file = tmp_path / "seen"
    running = Threaded(app_of.run)
    app_of.publish("slow", {"seconds": 0, "file": str(file)})
    until(lambda: len(lines_of(file)) == 2)
    kill(int(lines_of(file)[0][0]))
    app_of.publish("slow", {"seconds": 0.3, "file": str(file)})
    until(lambda: len(lines_of(file)) == 3)
    # When it is stopped while the worker works, then it returns after the task
    app_of.stop()
    running.result()
    assert lines_of(file)[-1] == ["done"]
    assert dq.Sink(broker, "slow.wait").stats().settled == 2
    # When it is stopped at once
    running = Threaded(app_of.run)
    app_of.publish("slow", {"seconds": 60, "file": str(file)})
    until(lambda: len(lines_of(file)) == 5)
    begun = time.monotonic()
    app_of.stop(now=True)
    running.result()
    # Then the worker is gone, and the task is back, with no attempt burned
    assert time.monotonic() - begun < 3
    assert not alive(int(lines_of(file)[-1][0]))
    with dq.Sink(broker, "slow.wait").consumer(idle_timeout=5) as consumer:
        assert [next(iter(consumer)).attempt] == [1]


@pytest.mark.parametrize("app_of", ["mixed"], indirect=True)
def test_short_tasks_do_not_wait_behind_a_long_one(app_of: App, broker: BrokerManager, tmp_path: Path) -> None:
    # Given many short ones, so that they are sent ahead, with a long one among them
    jobs = [{"n": n, "seconds": 0.4 if n == 300 else 0, "file": str(tmp_path / "seen")} for n in range(340)]
    with dq.Publisher(broker, "mixed") as publisher:
        publisher.publish_many(jobs)
    app_of.run(burst=True)
    # Then the long one is the last to end, and none was done twice
    seen = [line[0] for line in lines_of(tmp_path / "seen")]
    assert seen[-1] == "300"
    assert Counter(seen) == Counter(str(n) for n in range(340))


def test_workers_end_with_their_app(broker: BrokerManager, tmp_path: Path) -> None:
    stream, file = f"orphans{os.getpid()}", tmp_path / "seen"
    module = tmp_path / "orphans.py"
    module.write_text(
        f"import os, re\nfrom dq import App\napp = App({str(broker.root)!r}, sink='o')\n"
        f"@app.handler({stream!r}, processes=1)\ndef work(job):\n"
        f"    open({str(file)!r}, 'w').write(str(os.getpid()))\n    re.match('(a+)+$', 'a' * 40 + 'b')\n"
    )
    broker.publish(stream, 1)
    with Child(f"sys.path.insert(0, {str(tmp_path)!r}); import orphans; orphans.app.run()") as child:
        worker = until(lambda: file.exists() and file.read_text() and int(file.read_text()))
        assert alive(worker)
        # When the app is killed while the handler holds the interpreter
        child.kill()
        # Then the worker ends too
        until(lambda: not alive(worker), 3)


def run_script(path: Path, broker: BrokerManager, run: str) -> subprocess.CompletedProcess[str]:
    path.write_text(SCRIPT.format(stream=path.stem, run=run))
    broker.publish(path.stem, {"n": 1})
    return subprocess.run([sys.executable, path, broker.root], capture_output=True, text=True, timeout=20, cwd=path.parent)


def test_a_script_with_a_guard_needs_no_module(broker: BrokerManager, tmp_path: Path) -> None:
    done = run_script(tmp_path / "guarded.py", broker, 'if __name__ == "__main__":\n    app.run(burst=True)')
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1:] == ["__dq_main__"]


def test_a_script_without_one_is_refused_and_its_handler_stays_as_it_was(broker: BrokerManager, tmp_path: Path) -> None:
    done = run_script(tmp_path / "bare.py", broker, "app.run(burst=True)")
    assert done.returncode == 1
    assert "NotImportable: handler 'work' stands in __main__" in done.stderr
    assert "dq work bare:app" in done.stderr


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("app.run()", "came to app.run() when it imported it"),
    ],
)
def test_a_module_that_a_worker_cannot_import_ends_the_app_with_the_reason(
    broker: BrokerManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, said: str
) -> None:
    name = f"unimportable{len(said)}"
    (tmp_path / f"{name}.py").write_text(
        f"import sys\nfrom dq import App\napp = App({str(broker.root)!r}, sink='u')\n"
        "@app.handler('unimportable', processes=1)\ndef work(job): ...\n"
        f"if 'dq.app.worker' in sys.modules:\n    {source}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    app: App = importlib.import_module(name).app
    with app, pytest.raises(NotImportable) as caught:
        app.run()
    assert said in str(caught.value)


def test_a_handler_in_a_function_is_refused_when_the_worker_does_not_find_it(broker: BrokerManager, name: str) -> None:
    app = App(broker, sink=name)

    @app.handler(name, processes=1)
    def inner(job: dict) -> None: ...

    app.publish(name, {})
    with pytest.raises(NotImportable, match="registers no handler 'inner': register it at the top of its module"):
        app.run(burst=True)


def test_one_typed_in_is_refused() -> None:
    with Child(
        "from dq import App\nfrom dq.app.importing import origin_of\napp = App()\n@app.handler('s', processes=1)\n"
        "def work(job): ...\ntry: origin_of(app.handlers['work'])\nexcept Exception as e: say(repr(e))"
    ) as child:
        assert "was typed in or comes from `python -c`" in child.hear()


def test_a_handler_whose_workers_cannot_start_any_more_is_closed_and_others_go_on(
    broker: BrokerManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an app of two handlers, one of them in a process
    flag = tmp_path / "broken"
    monkeypatch.setenv("DQ_TEST_BROKEN", str(flag))
    monkeypatch.setattr("dq.app.processes.backoff", lambda attempts, jitter: 0.01)
    monkeypatch.setattr("dq.app.processes._STARTS_MAX", 3)
    app, file, other = App(broker, sink="closing"), tmp_path / "seen", threading.Event()
    app._add(Handler(process_jobs.wait, ("closing",), processes=1, module="process_jobs"))
    app.register(type("Other", (), {"handle": staticmethod(lambda job: other.set())})(), "others", name="other")
    running = Threaded(app.run)
    app.publish("closing", {"seconds": 0, "file": str(file)})
    until(lambda: len(lines_of(file)) == 2)
    # When its worker dies, and each new one at its import
    flag.touch()
    kill(int(lines_of(file)[0][0]))
    mailbox = app._run._mailboxes[0]
    until(lambda: mailbox.closed is not None)
    # Then the other one goes on, and the app says at its end what was wrong
    app.publish("others", 1)
    assert other.wait(5)
    app.stop()
    with pytest.raises(NotImportable, match="ended with exit code 7 while it imported the handler"):
        running.result()


def test_timeouts_in_threads_are_reported_once_and_coroutines_are_cancelled(
    broker: BrokerManager, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = App(broker, sink=name, config=process_jobs.CONFIG)
    attempts: list[str | None] = []

    @app.handler(f"{name}t", timeout=0.05)
    def sleepy(job: int) -> None:
        time.sleep(0.3)

    @app.handler(f"{name}a", timeout=0.05)
    async def waiting(job: int, task: dq.Task) -> None:
        attempts.append(task.last_error)
        await asyncio.sleep(30)

    app.publish(f"{name}t", 1)
    app.publish(f"{name}a", 1)
    with caplog.at_level(logging.WARNING, "dq"):
        app.run(burst=True)
    said = [record.getMessage() for record in caplog.records]
    assert len([line for line in said if line.startswith("handler sleepy runs longer than its timeout of 0.05 s")]) == 1
    assert dq.Sink(broker, f"{name}.sleepy").stats().settled == 1
    assert attempts == [None, "HandlerTimeout: it ran longer than 0.05 s, and was cancelled"]
    assert len(dead_letters(broker, f"{name}a")) == 1


def test_what_is_imported_is_named_once() -> None:
    handler = process_jobs.slow.handlers["wait"]
    assert origin_of(handler).modules == ("process_jobs",)
    assert origin_of(handler, "process_jobs").modules == ("process_jobs",)
    assert origin_of(handler, "other").modules == ("other", "process_jobs")

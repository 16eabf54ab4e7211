"""Whatever a broker is started in: umask, closed or full standard streams, optimised, another locale, another user."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

import dq
from dq import BrokerManager, BrokerRunning, Consumer, LogError, Publisher
from stage import Child, alive, pids, settled, until

ROUND_TRIP = """
from dq import BrokerManager, Consumer, Publisher
with BrokerManager(sys.argv[1]) as broker:
    with Publisher(broker, "s") as publisher:
        publisher.publish_many([{"text": "caf\\u00e9 \\u20ac \\U0001f600", "n": n} for n in range(20)], key="cl\\u00e9")
        publisher.publish("the last", topic="end", name="n\\u00e4me", headers={"h": "\\u00e9"})
    got = []
    with Consumer(broker, "s", sink="k", idle_timeout=5) as consumer:
        for task in consumer:
            got.append(task.payload)
            task.ack()
            if task.payload == "the last":
                break
    assert_ = got[:20] == [{"text": "caf\\u00e9 \\u20ac \\U0001f600", "n": n} for n in range(20)]
    say(assert_, len(got), task.name, task.headers)
"""
DONE = [True, 21, "n\u00e4me", {"h": "\u00e9"}]


@contextlib.contextmanager
def serving(root: Path, program: str = "", **options) -> Iterator[subprocess.Popen]:
    """`python -m dq.main serve`, after `program` has changed the process that becomes it."""
    become = "os.execv(sys.executable, [sys.executable, '-m', 'dq.main', 'serve', sys.argv[1]])"
    code = f"import os, sys\n{program}\n{become}"
    process = subprocess.Popen([sys.executable, "-c", code, str(root)], **options)
    try:
        until(lambda: process.poll() is not None or (root / "manager.sock").exists(), 20, "the door is open")
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def round_trip(root: Path) -> None:
    with dq.connect(root) as broker:
        assert broker.publish("s", "there").id.startswith("s/0/")
        with Consumer(broker, "s", sink="k", idle_timeout=5) as consumer:
            task = next(iter(consumer))
            assert task.payload == "there"
            task.ack(wait=True)
        assert all(alive(pid) for pid in (broker.manager_pid, *pids(broker)))


# --- modes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_files_are_their_owners_alone_whatever_the_umask(tmp_path, mask):
    """bad input 53: directories 0700, files 0600, the socket 0600; also after a restart of each broker and in quarantine."""
    root = tmp_path / "q"
    with serving(root, f"os.umask({mask})"):
        with dq.connect(root) as broker:
            broker.publish("s", 1)
            for pid in pids(broker):
                os.kill(pid, signal.SIGKILL)
            pids(broker)
            broker.publish("s", 2)
            with Consumer(broker, "s", sink="k", idle_timeout=5) as consumer:
                next(iter(consumer)).dead_letter("so")
                consumer.flush(5)
            until(lambda: settled(broker, "k", 1), what="the dead letter is stored, and its stream made")
        for place in [root, *root.rglob("*")]:
            mode = place.lstat().st_mode & 0o777
            assert mode == (0o700 if place.is_dir() else 0o600), place


# --- standard streams ------------------------------------------------------------------------------------------------

CLOSED = {
    "stdout": "os.close(1)",
    "stderr": "os.close(2)",
    "all three": "[os.close(n) for n in (0, 1, 2)]",
    "stdout and stderr on a full disk": "full = os.open('/dev/full', os.O_WRONLY); os.dup2(full, 1); os.dup2(full, 2)",
    "stdout and stderr that nobody reads": "r, w = os.pipe(); os.dup2(w, 1); os.dup2(w, 2); os.close(r); os.close(w)",
}


@pytest.mark.parametrize("program", CLOSED.values(), ids=CLOSED.keys())
def test_a_broker_serves_whatever_its_standard_streams_are(tmp_path, program):
    """bad input 59: closed, full, or a pipe that nobody reads; and no file of dq ever gets one of their numbers."""
    root = tmp_path / "q"
    with serving(root, program, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        round_trip(root)
        with dq.connect(root) as broker:
            os.kill(pids(broker)[0], signal.SIGKILL)  # which is logged, wherever the log goes to
            for pid in (broker.manager_pid, *pids(broker)):
                for number in (0, 1, 2):
                    assert str(root) not in os.readlink(f"/proc/{pid}/fd/{number}")
                    assert "socket" not in os.readlink(f"/proc/{pid}/fd/{number}")
    assert process.returncode == 0
    written = (root / "streams" / "s" / "0" / f"{0:020}.jsonl").read_bytes().splitlines()
    assert all(isinstance(orjson.loads(line), dict) for line in written)


@pytest.mark.parametrize("closed", ["1", "012"])
def test_a_script_with_closed_standard_streams_has_a_broker(tmp_path, closed):
    """bad input 59: the same for `BrokerManager` in a script."""
    said = tmp_path / "said"
    code = (
        f"import os, sys\n[os.close(int(n)) for n in {closed!r}]\n"
        "import json\nfrom pathlib import Path\n"
        f"def say(*what): Path({str(said)!r}).write_text(json.dumps(what))\n" + ROUND_TRIP
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "q")], check=False, timeout=30, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert orjson.loads(said.read_bytes()) == DONE


# --- the interpreter -------------------------------------------------------------------------------------------------

INTERPRETERS = {
    "-OO": (["-OO"], {}),
    "PYTHONOPTIMIZE=2": ([], {"PYTHONOPTIMIZE": "2"}),
    "LC_ALL=C": ([], {"LC_ALL": "C", "PYTHONUTF8": "0"}),
    "POSIX without coercion": ([], {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    "-I": (["-I"], {}),
    "PYTHONDEVMODE=1": ([], {"PYTHONDEVMODE": "1"}),
}


@pytest.mark.parametrize(("options", "environment"), INTERPRETERS.values(), ids=INTERPRETERS.keys())
def test_a_round_trip_works_however_python_is_started(tmp_path, options, environment):
    """bad input 60: optimised without asserts and docstrings, another locale, isolated, strict; in all processes."""
    code = Child.PRELUDE + ROUND_TRIP
    done = subprocess.run(
        [sys.executable, *options, "-c", code, str(tmp_path / "q")],
        env={**os.environ, **environment},
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert orjson.loads(done.stdout) == DONE
    assert b"Traceback" not in done.stderr
    assert done.stderr == b"" or b"lies in memory" in done.stderr


def test_a_path_that_the_locale_cannot_write_is_refused_with_what_to_do(tmp_path):
    """bad input 60: a directory with an accent under LC_ALL=C."""
    place = tmp_path / "caf\u00e9"
    code = (
        "from dq import BrokerManager, InvalidSetting\n"
        "try:\n    BrokerManager(sys.argv[1])\nexcept InvalidSetting as e:\n    say(str(e))\n"
    )
    with Child(code, place, env={"LC_ALL": "C", "PYTHONUTF8": "0"}) as child:
        assert "PYTHONUTF8=1" in child.hear(20)
        assert child.wait() == 0
    with BrokerManager(place) as broker:
        assert broker.publish("s", 1).id == "s/0/0"


def test_a_program_that_is_a_module_of_a_package_has_a_broker(tmp_path):
    """bad input 60 and 61: `python -m package` with neither a guard nor anything else, run by its name."""
    package = tmp_path / "program"
    package.mkdir()
    (package / "__main__.py").write_text(
        "import sys\nfrom dq import BrokerManager\nprint('begun', flush=True)\n"
        "with BrokerManager(sys.argv[1]) as broker:\n    print(broker.publish('s', 1).id)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "program", str(tmp_path / "q")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("begun\ns/0/0\n", 0), done.stderr


# --- started twice, or as somebody else ------------------------------------------------------------------------------


def test_a_second_start_ends_with_its_code_and_names_the_first(tmp_path):
    """bad input 57: started twice, by the command and by the class."""
    root = tmp_path / "q"
    with BrokerManager(root) as broker:
        done = subprocess.run(
            [sys.executable, "-m", "dq.main", "serve", str(root)], capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 75
        assert f"pid {broker.manager_pid}" in done.stderr
        assert "Traceback" not in done.stderr
        with pytest.raises(BrokerRunning, match=f"pid {broker.manager_pid}"):
            BrokerManager(root)
        assert broker.publish("s", 1).id == "s/0/0"


AS_NOBODY = """
os.setgid(65534)
os.setuid(65534)
sys.argv = ["dq", "serve", sys.argv[1]]
from dq.main import main
raise SystemExit(main())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("entered", [False, True], ids=["a directory that it cannot enter", "a directory that it can enter"])
def test_another_user_on_the_same_directory_is_refused(tmp_path, entered):
    """bad input 57: as another uid on a data directory of root's."""
    root = Path(os.path.realpath(tmp_path)) / "q"
    with BrokerManager(root) as broker:
        broker.publish("s", 1)
    opened = [path for path in root.parents if not path.stat().st_mode & 0o001]
    modes = {path: path.stat().st_mode & 0o777 for path in [*opened, root]}
    try:
        for path in opened:
            path.chmod(modes[path] | 0o055)
        if entered:
            root.chmod(0o755)
        code = f"import sys, os; sys.path[:0] = {sys.path!r}\nimport dq, dq.cli.commands, dq.cli.serve, locale\n{AS_NOBODY}"
        done = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, timeout=30, check=False)
    finally:
        for path, mode in modes.items():
            path.chmod(mode)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode in (74, 77), done.stderr
    assert "uid" in done.stderr or "Permission denied" in done.stderr
    with BrokerManager(root) as broker:
        assert broker.publish("s", 2).id == "s/0/1"


def test_a_directory_that_others_can_write_is_refused_with_the_mend(tmp_path):
    """R12 and bad input 57: wider than its owner alone."""
    root = tmp_path / "q"
    with BrokerManager(root) as broker:
        broker.publish("s", 1)
    root.chmod(0o777)
    with pytest.raises(LogError, match="chmod 700"):
        BrokerManager(root)
    root.chmod(0o700)
    with BrokerManager(root) as broker, Publisher(broker, "s") as publisher:
        assert publisher.publish(2).id == "s/0/1"

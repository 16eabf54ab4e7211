"""What happens when processes die, hang, race or meet their predecessors."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import dq
from dq import BrokerManager, BrokerNotRunning, Closed, Consumer, DqError, Forked, InUse, Publisher
from dq.client.starter import start_detached
from stage import Child, Threaded, alive, announce, drain, kill, marked, pids, settled, sink_of, until

NURSERY = """
import signal
from dq import Consumer
while True:
    name = heard()
    if name is None:
        break
    pid = os.fork()  # before any object of dq is made: a new interpreter for each would take all the time
    if not pid:
        for task in Consumer(sys.argv[1], name, sink=name, prefetch=1):
            say(task.payload)
            signal.pause()
    say(pid)
    say(os.waitpid(pid, 0)[0])
"""


# --- consumers that die ----------------------------------------------------------------------------------------------


@pytest.mark.alone
def test_the_work_of_a_killed_consumer_is_in_anothers_hand_within_50_ms(broker, name, capsys):
    """T12 and crash W1: p99 < 50 ms over 100 kills, from the signal to the record in the other's hand."""
    kills = 100
    waits: list[float] = []
    victim = 0
    with (
        Publisher(broker, name) as publisher,
        Consumer(broker, name, sink=name, prefetch=1) as survivor,
        Child(NURSERY, broker.root) as nursery,
    ):
        try:
            for round_number in range(kills):
                nursery.tell(name)
                victim = nursery.hear()
                until(lambda pid=victim: _is_idle(broker, name, pid), what="the victim waits idle")
                publisher.publish(round_number)
                assert nursery.hear() == round_number  # it is in its hand
                got: list[tuple[float, int]] = []
                taking = Threaded(lambda got=got: _take_one(survivor, got))
                until(lambda: _credit(broker, name, survivor.consumer_id), what="the survivor waits idle")

                at = time.monotonic()
                kill(victim)
                taking.result()

                assert got[0][1] == round_number
                waits.append(got[0][0] - at)
                assert nursery.hear() == victim
        finally:
            if victim:
                kill(victim)
    waits.sort()
    p50, p99, worst = statistics.median(waits) * 1e3, waits[-2] * 1e3, waits[-1] * 1e3
    figures = f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, worst of {kills} {worst:.1f} ms"
    announce(capsys, f"\n  consumer killed -> its record in another's hand: {figures}\n")
    assert p99 < 50


def _is_idle(broker, sink, pid) -> bool:
    stats = broker.stats()["consumer_broker"]
    mine = [consumer for consumer, of in stats["consumers"].items() if of["pid"] == pid]
    return bool(mine) and _credit(broker, sink, mine[0])


def _credit(broker, sink, consumer) -> bool:
    figures = sink_of(broker, sink)["consumers"].get(consumer, {})
    return figures.get("credit", 0) > 0 and figures["in_hand"] == 0


def _take_one(consumer, got) -> None:
    for task in consumer:
        got.append((time.monotonic(), task.payload))
        task.ack(wait=True)
        break


def test_a_record_that_kills_its_consumers_is_given_up_and_the_innocent_burn_no_attempt(broker, name):
    """crash W2: a poison record kills its consumer each time. One dead letter; all others come as for the first time."""
    code = """
from dq import Consumer
with Consumer(sys.argv[1], sys.argv[2], sink="s", idle_timeout=1.5, max_attempts=2, prefetch=20) as consumer:
    for task in consumer:
        if task.payload == "poison":
            os._exit(9)
        with task:
            say([task.payload, task.attempt])
say("done")
"""
    records = [*range(10), "poison", *range(10, 20)]
    with Publisher(broker, name) as publisher:
        publisher.publish_many(records)
    seen: list[list] = []
    deaths = 0
    for _ in range(6):
        with Child(code, broker.root, name) as child:
            said = child.hear_rest(20)
            deaths += child.wait() == 9
        seen += [part for part in said if part != "done"]
        if "done" in said:
            break
    else:
        pytest.fail(f"the poison record is never given up: {seen}")

    assert deaths == 3  # with many in hand, then alone, and alone once more: max_attempts=2
    until(lambda: sink_of(broker, "s")["settled"] == 21, what="all is settled")
    assert sorted({payload for payload, _ in seen}) == list(range(20))
    assert {attempt for _, attempt in seen} == {1}
    letters = drain(broker, f"{name}-dlq", sink="undertaker")
    assert [letter.payload for letter in letters] == ["poison"]
    assert letters[0].headers["dq-id"] == f"{name}/0/10"
    assert letters[0].headers["dq-reason"] == "consumer_died"
    assert letters[0].headers["dq-attempts"] == "2"


def test_a_task_in_hand_stays_with_its_consumer_when_the_consumer_broker_is_killed(dq_broker):
    """crash C2: its ack counts, and nothing is delivered again."""
    with Publisher(dq_broker, "emails") as publisher, Consumer(dq_broker, "emails", sink="mailers") as consumer:
        publisher.publish_many(range(3))
        tasks = iter(consumer)
        task = next(tasks)
        kill(pids(dq_broker)[1])
        pids(dq_broker)
        task.ack(wait=True)
        for expected in (1, 2):
            task = next(tasks)
            assert (task.payload, task.attempt) == (expected, 1)
            task.ack(wait=True)
        tasks.close()
        figures = sink_of(dq_broker, "mailers")
        assert (figures["settled"], figures["redelivered"]) == (3, 0)


def test_a_publish_while_the_publisher_broker_is_dead_is_answered_by_the_next_one_and_stored_once(dq_broker):
    with Publisher(dq_broker, "emails") as publisher:
        publisher.publish(0)
        kill(pids(dq_broker)[0])
        assert [publisher.publish(n).id for n in range(1, 4)] == [f"emails/0/{n}" for n in range(1, 4)]
    assert [task.payload for task in drain(dq_broker, "emails", sink="mailers")] == [0, 1, 2, 3]


def test_batches_under_way_when_the_publisher_broker_dies_are_stored_once(dq_broker):
    with Publisher(dq_broker, "emails", batch_size=10) as publisher:
        publisher.publish("first")
        broker_pid = pids(dq_broker)[0]
        os.kill(broker_pid, signal.SIGSTOP)
        futures = [publisher.submit(n) for n in range(1_000)]
        kill(broker_pid)
        assert [future.result(10).id for future in futures] == [f"emails/0/{n + 1}" for n in range(1_000)]
    assert [task.payload for task in drain(dq_broker, "emails", sink="mailers")] == ["first", *range(1_000)]


def test_a_broker_that_dies_again_and_again_comes_back_each_time(dq_broker):
    with Publisher(dq_broker, "emails") as publisher:
        for round_number in range(4):
            assert publisher.publish(round_number).id == f"emails/0/{round_number}"
            kill(pids(dq_broker)[round_number % 2])
        assert dq_broker.stats()["publisher_broker"]["restarts"] == 2


# --- managers that die -----------------------------------------------------------------------------------------------


def test_both_brokers_leave_within_2_s_of_a_killed_manager_and_a_new_one_serves(tmp_path):
    """crash M3."""
    broker = BrokerManager(tmp_path / "q")
    both = pids(broker)
    receipt = broker.publish("emails", 1)
    kill(broker.manager_pid)
    try:
        until(lambda: not any(map(alive, both)), 2, "both brokers are gone")
    finally:
        broker.stop()
        for pid in both:
            kill(pid)
    with BrokerManager(tmp_path / "q") as again:
        assert again.publish("emails", 2).id == "emails/0/1"
        assert receipt.id == "emails/0/0"


def test_a_new_manager_starts_while_the_old_ones_brokers_still_die(tmp_path):
    """crash M4: five times in a row, without waiting for anything."""
    broker = BrokerManager(tmp_path / "q")
    try:
        for round_number in range(5):
            assert broker.publish("emails", round_number).id == f"emails/0/{round_number}"
            kill(broker.manager_pid)
            dead, broker = broker, BrokerManager(tmp_path / "q")
            dead.stop()
        assert broker.publish("emails", 5).id == "emails/0/5"
    finally:
        broker.stop()


def test_a_new_manager_waits_for_an_old_writer_that_hangs_and_then_names_its_pid(tmp_path):
    """crash M4: the old publisher broker is stopped and holds its lock; nobody may write beside it."""
    broker = BrokerManager(tmp_path / "q")
    old = pids(broker)[0]
    try:
        broker.publish("emails", 1)
        os.kill(old, signal.SIGSTOP)
        kill(broker.manager_pid)
        broker.stop()
        began = time.monotonic()
        with pytest.raises(InUse, match=rf"pid {old}\b"):
            BrokerManager(tmp_path / "q")
        assert 4 < time.monotonic() - began < 9

        starting = Threaded(lambda: BrokerManager(tmp_path / "q"))
        until(lambda: (tmp_path / "q" / "manager.sock").exists(), what="the next one has begun")
        os.kill(old, signal.SIGCONT)  # it sees that its manager is gone, and leaves
        with starting.result() as again:
            assert not alive(old)
            assert again.publish("emails", 2).id == "emails/0/1"
    finally:
        kill(old, signal.SIGCONT)
        kill(old)
        broker.stop()


def test_the_handle_of_a_dead_manager_does_not_stop_the_next_one(tmp_path):
    dead = BrokerManager(tmp_path / "q")
    kill(dead.manager_pid)
    until(lambda: not alive(dead.manager_pid), what="it is dead")
    with BrokerManager(tmp_path / "q") as broker:
        dead.stop()
        assert broker.publish("emails", 1).id == "emails/0/0"


def test_a_starter_that_is_killed_takes_its_broker_along(tmp_path):
    code = "from dq import BrokerManager\nb = BrokerManager(sys.argv[1])\nsay(b.manager_pid)\nheard()"
    with Child(code, tmp_path / "q") as child:
        manager = child.hear(20)
        child.kill()
        until(lambda: not alive(manager), 3, "the manager has left")
    with BrokerManager(tmp_path / "q") as again:
        assert again.publish("emails", 1).id == "emails/0/0"


def test_clients_go_on_with_a_new_manager(tmp_path):
    broker = BrokerManager(tmp_path / "q")
    publisher, consumer = Publisher(broker, "emails"), Consumer(broker, "emails", sink="mailers")
    try:
        publisher.publish(1)
        tasks = iter(consumer)
        in_hand = next(tasks)
        kill(broker.manager_pid)
        broker.stop()
        publishing = Threaded(lambda: publisher.publish(2))
        broker = BrokerManager(tmp_path / "q")
        assert publishing.result().id == "emails/0/1"
        in_hand.ack(wait=True)
        task = next(tasks)
        assert (task.payload, task.attempt) == (2, 1)
        task.ack(wait=True)
        tasks.close()
        assert sink_of(broker, "mailers")["redelivered"] == 0
    finally:
        consumer.close()
        publisher.close()
        broker.stop()


def test_a_client_whose_broker_stays_away_is_told_and_can_be_used_again_once_it_is_back(tmp_path):
    broker = BrokerManager(tmp_path / "q")
    with Publisher(broker, "emails", reconnect_timeout=0.3) as publisher:
        publisher.publish(1)
        broker.stop()
        with pytest.raises(dq.BrokerLost, match=r"0\.3 s"):
            publisher.publish(2)
        with BrokerManager(tmp_path / "q"):
            assert publisher.publish(3).id.startswith("emails/0/")
            publisher.close()


# --- starting --------------------------------------------------------------------------------------------------------


@pytest.mark.alone
def test_a_start_is_quick(tmp_path, capsys):
    seconds = []
    for _ in range(3):
        began = time.monotonic()
        with BrokerManager(tmp_path / "q"):
            seconds.append(time.monotonic() - began)
    announce(capsys, f"\n  start to ready: best {min(seconds):.2f} s, worst {max(seconds):.2f} s\n")
    assert min(seconds) < 2  # far over the goal of 0.5 s: the machine may be busy


def test_ctrl_c_at_a_script_stops_all_of_its_processes_in_order(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        "from dq import BrokerManager, Consumer\n"
        "with BrokerManager(sys.argv[1]) as broker:\n"
        "    broker.publish('emails', 1)\n"
        "    with Consumer(broker, 'emails', sink='mailers') as consumer:\n"
        "        for task in consumer:\n"
        "            with task:\n"
        "                print('working', flush=True)\n"
    )
    marker = f"DQ_CTRL_C={os.getpid()}"
    process = subprocess.Popen(
        [sys.executable, script, tmp_path / "q"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, **dict([marker.split("=")])},
    )
    try:
        assert process.stdout.readline() == b"working\n"
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=10)
        assert errors.count(b"Traceback") == 1, errors.decode()  # the script's own KeyboardInterrupt
        assert errors.rstrip().endswith(b"KeyboardInterrupt")
        until(lambda: not marked(marker), 2, "nothing is left")
        assert (tmp_path / "q" / "streams" / "clean.json").exists()  # the brokers ended well
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def test_a_script_needs_no_main_guard(tmp_path):
    """bad input 61: a script without `if __name__ == "__main__"` neither fails nor starts itself again and again."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "from dq import BrokerManager\n"
        "print('begun', flush=True)\n"
        "broker = BrokerManager(sys.argv[1])\n"
        "print(broker.publish('emails', 1).id)\n"
        "broker.stop()\n"
    )
    done = subprocess.run([sys.executable, script, tmp_path / "q"], capture_output=True, timeout=30, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("begun\nemails/0/0\n", "", 0)


def test_a_script_that_forgets_to_close_loses_no_ack(broker, name):
    code = """
from dq import Consumer, Publisher
publisher = Publisher(sys.argv[1], sys.argv[2])
publisher.submit(1)
consumer = Consumer(sys.argv[1], sys.argv[2], sink=sys.argv[2], idle_timeout=5)
task = next(iter(consumer))
task.ack()
"""
    with Child(code, broker.root, name) as child:
        assert child.wait(20) == 0, child.errors.decode()
        assert child.errors == b""
    until(lambda: settled(broker, name, 1), what="the ack has arrived")


def test_client_objects_are_refused_in_a_forked_child_and_go_on_in_the_parent(broker, name):
    code = """
from dq import Consumer, Forked, Publisher
publisher = Publisher(sys.argv[1], sys.argv[2])
consumer = Consumer(sys.argv[1], sys.argv[2], sink=sys.argv[2], idle_timeout=3)
publisher.publish(0)
pid = os.fork()
if not pid:
    refused = []
    for use in (lambda: publisher.publish(1), lambda: publisher.submit(1), lambda: next(iter(consumer)), consumer.flush,
                lambda: publisher.publish_many([1])):
        try:
            use()
        except Forked as error:
            refused.append(type(error).__name__)
    own = Publisher(sys.argv[1], sys.argv[2])
    say(refused, own.publish("of the child").id.rsplit("/", 1)[1])
    own.close()
    os._exit(0)
os.waitpid(pid, 0)
say(publisher.publish("of the parent").id.rsplit("/", 1)[1])
for task in consumer:
    with task:
        say(task.payload)
    if task.payload == "of the parent":
        break
consumer.close()
publisher.close()
"""
    with Child(code, broker.root, name) as child:
        assert child.hear_rest(20) == [[["Forked"] * 5, "1"], "2", 0, "of the child", "of the parent"]
        assert child.wait() == 0, child.errors.decode()
    assert issubclass(Forked, Closed)


# --- connect ---------------------------------------------------------------------------------------------------------


def test_connect_says_what_to_do_where_no_broker_runs(tmp_path):
    with pytest.raises(BrokerNotRunning, match="start=True"):
        dq.connect(tmp_path / "q")
    assert not (tmp_path / "q").exists()


def test_of_several_that_connect_and_start_at_once_all_share_one_broker(tmp_path):
    root = tmp_path / "q"
    handles: list[dq.Broker] = []
    try:
        with ThreadPoolExecutor(6) as threads:
            list(threads.map(lambda _: handles.append(dq.connect(root, start=True)), range(6)))
        assert len({handle.manager_pid for handle in handles}) == 1
        assert sorted(handle.publish("emails", 1).id for handle in handles) == [f"emails/0/{n}" for n in range(6)]
        handles[0].ask(dq.EventType.SHUTDOWN, {})
        until(lambda: not alive(handles[0].manager_pid), what="it has stopped")
    finally:
        for handle in handles:
            kill(handle.manager_pid)
            handle.close()


def test_connect_starts_one_where_the_last_one_is_just_leaving(tmp_path):
    root = tmp_path / "q"
    broker = dq.connect(root, start=True)
    try:
        broker.publish("emails", 0)
        for round_number in range(1, 3):
            old = broker.manager_pid
            broker.ask(dq.EventType.SHUTDOWN, {})
            broker.close()
            broker = dq.connect(root, start=True)
            assert broker.manager_pid != old
            assert broker.publish("emails", round_number).id == f"emails/0/{round_number}"
    finally:
        kill(broker.manager_pid)
        broker.close()


def test_a_broker_that_was_started_by_connect_leaves_after_its_last_client(tmp_path):
    root = tmp_path / "q"
    pid = start_detached(root, 30, linger=0.5)
    try:
        with dq.connect(root) as broker:
            both = pids(broker)
            assert broker.publish("emails", 1).id == "emails/0/0"
            publisher = Publisher(broker, "emails")
        with publisher:  # it is a client too: the broker stays for it
            with pytest.raises(AssertionError):
                until(lambda: not alive(pid), 1.5)
            assert publisher.publish(2).id == "emails/0/1"
        began = time.monotonic()
        until(lambda: not any(map(alive, (pid, *both))), 5, "it has left")
        assert time.monotonic() - began < 3
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass
    finally:
        kill(pid)
    with pytest.raises(BrokerNotRunning):
        dq.connect(root)


def test_a_data_directory_with_a_long_path_works(tmp_path):
    """bad input 56: the path of a socket ends at 107 bytes, the path of a directory does not."""
    root = tmp_path / ("d" * 100) / ("e" * 100)
    root.parent.mkdir()
    with BrokerManager(root) as broker, dq.connect(root) as other:
        assert other.manager_pid == broker.manager_pid
        assert other.publish("emails", 1).id == "emails/0/0"


def test_only_the_owner_can_enter(dq_broker):
    """bad input 53: directories 0700, files and the socket 0600, whatever the umask."""
    dq_broker.publish("emails", 1)
    for place in [dq_broker.root, *dq_broker.root.rglob("*")]:
        mode = place.lstat().st_mode & 0o777
        assert mode == (0o700 if place.is_dir() else 0o600), place


def test_a_handle_that_was_closed_says_so(tmp_path):
    broker = BrokerManager(tmp_path / "q")
    broker.stop()
    with pytest.raises(DqError):
        broker.stats()
    broker.stop()

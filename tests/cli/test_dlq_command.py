"""`dq dlq`: what was given up, from the shell."""

from __future__ import annotations

import json

from dq import Consumer


def given_up(broker, name: str) -> None:
    for payload in ("one", "two"):
        broker.publish(name, payload)
    with Consumer(broker, name, sink=name, max_attempts=1, idle_timeout=0.3) as consumer:
        for task in consumer:
            try:
                with task:
                    raise ValueError(f"no {task.payload}")
            except ValueError:
                pass


def test_dead_letters_are_listed_shown_replayed_and_discarded(here, name, dq) -> None:
    given_up(here, name)
    rows = dq("dlq", "list", name).out.splitlines()
    assert [row.split()[0] for row in rows[1:]] == [f"{name}-dlq/0/0", f"{name}-dlq/0/1"]
    found = json.loads(dq("dlq", "list", name, "--json", "-n", "1").out)
    assert (found["payload"], found["death"]["error"]) == ("one", "ValueError: no one")
    assert "no two" in dq("dlq", "list", name, "--error", "no two").out
    shown = dq("dlq", "show", name, f"{name}-dlq/0/1").out
    assert "Traceback" in shown
    assert "after 1 attempts" in shown
    assert dq("dlq", "show", name, f"{name}-dlq/0/7").code == 4
    assert dq("dlq", "replay", name).code == 2  # nobody can be asked
    assert dq("dlq", "replay", name, f"{name}-dlq/0/0").out == "1 dead letters replayed\n"
    assert dq("dlq", "discard", name, "--sink", name, "--yes").out == "1 dead letters discarded\n"
    assert dq("dlq", "discard", name, "--yes").code == 4
    assert dq("consume", "--sink", name, "--timeout", "0.3").out == '"one"\n'

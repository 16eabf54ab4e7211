"""Handlers: one terminal publishes, another one works; with no argument both are done here, one after the other."""

import shutil
import sys

from dq import App, AppConfig, BrokerManager, Task, connect
from dq.app import DeadLetter, Retry

PLACE = "queue_data/examples/15_handlers"
PART = sys.argv[1] if len(sys.argv) > 1 else "both"
if PART == "both":
    shutil.rmtree(PLACE, ignore_errors=True)  # each run begins anew

with connect(PLACE, start=True) if PART == "publish" else BrokerManager(PLACE) as broker:
    app = App(broker, config=AppConfig(handler_max_attempts=3))

    @app.handler("emails", max_in_flight=1)
    def send(mail: dict, task: Task) -> Retry | DeadLetter | None:
        print("attempt", task.attempt, "to", mail["to"])
        if "@" not in mail["to"] and task.attempt < 3:
            return Retry(after=0.05)
        return None

    if PART != "work":
        print("published", *[app.publish("emails", {"to": to}) for to in ("ada@example.org", "nobody", "grace@example.org")])
    if PART != "publish":
        app.run(burst=PART == "both")  # in a terminal of its own until Ctrl-C

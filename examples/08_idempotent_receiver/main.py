"""An idempotent receiver: what is delivered twice is done once."""

import os
import shutil
import sqlite3
import subprocess
import sys

from dq import BrokerManager, Consumer, Publisher

PLACE = "queue_data/examples/08_idempotent_receiver"

if sys.argv[1:] == ["teller"]:
    bank = sqlite3.connect(f"{PLACE}/bank.db", isolation_level=None)
    bank.execute("CREATE TABLE IF NOT EXISTS bookings (id TEXT PRIMARY KEY, amount INTEGER)")
    with Consumer(PLACE, "payments", sink="tellers", prefetch=1, idle_timeout=0.5) as teller:
        for task in teller:
            with task:
                bank.execute("INSERT OR IGNORE INTO bookings VALUES (?, ?)", (task.id, task.payload))
                if task.payload == 30 and task.attempt == 1:
                    os.kill(os.getpid(), 9)  # it is booked, and not acked
    print("balance:", *bank.execute("SELECT sum(amount) FROM bookings").fetchone())
else:
    shutil.rmtree(PLACE, ignore_errors=True)  # each run begins anew
    with BrokerManager(PLACE) as broker, Publisher(broker, "payments") as publisher:
        publisher.publish_many([20, 30, 50])
        for _ in range(2):
            subprocess.run([sys.executable, __file__, "teller"])

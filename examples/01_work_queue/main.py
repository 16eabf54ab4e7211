"""A work queue: what is published waits on disk until somebody has done it."""

import os

from dq import BrokerManager, Consumer

PLACE = "queue_data/examples/01_work_queue"

with BrokerManager(PLACE) as broker:
    for name in ("ada", "grace", "edsger"):
        receipt = broker.publish("emails", {"to": name})
        print("on disk:", receipt.id, flush=True)

# The broker has left, and nobody holds the mails in memory. Another one finds them where they are.
with BrokerManager(PLACE) as broker, Consumer(broker, "emails", sink="mailers", idle_timeout=0.5) as mailer:
    for task in mailer:
        with task:  # acked at the end of the block
            print("process", os.getpid(), "mails", task.id, "to", task.payload["to"])

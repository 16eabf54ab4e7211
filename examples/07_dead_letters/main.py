"""Dead letters: what can never be done is put aside with its reason, and the rest goes on."""

import shutil

from dq import BrokerManager, Consumer

PLACE = "queue_data/examples/07_dead_letters"
shutil.rmtree(PLACE, ignore_errors=True)  # each run begins anew

with BrokerManager(PLACE) as broker:
    for address in ("ada@example.org", "nobody", "grace@example.org"):
        broker.publish("emails", {"to": address})
    with Consumer(broker, "emails", sink="mailers", max_attempts=3, idle_timeout=0.5) as mailer:
        for task in mailer:
            if "@" in task.payload["to"]:
                print("mail to", task.payload["to"])
                task.ack()
            else:
                task.dead_letter("no address")
    with Consumer(broker, "emails-dlq", sink="repairs", idle_timeout=0.5) as repairs:
        for task in repairs:
            with task:
                past = task.headers
                print("put aside:", task.payload["to"], "after", past["dq-attempts"], "attempts:", past["dq-reason"])

"""Ordered by key: what belongs together stays in order, also when it goes wrong."""

import shutil

from dq import BrokerManager, Consumer

PLACE = "queue_data/examples/05_ordered_by_key"
shutil.rmtree(PLACE, ignore_errors=True)  # each run begins anew

with BrokerManager(PLACE) as broker:
    broker.stream("orders", buckets=2)
    for step in ("placed", "paid", "shipped"):
        for customer in ("ada", "eve"):
            broker.publish("orders", step, key=customer)
    with Consumer(broker, "orders", sink="shop", ordered=True, idle_timeout=1) as shop:
        for task in shop:
            with task:
                if (task.key, task.payload, task.attempt) == ("ada", "paid", 1):
                    print("ada: the bank does not answer")
                    task.retry(after=0.5)
                else:
                    print(f"{task.key}: {task.payload}")

"""Fan-out: every sink over a stream gets each of its records, in its own time."""

import shutil

from dq import BrokerManager, Consumer

PLACE = "queue_data/examples/02_fan_out"
shutil.rmtree(PLACE, ignore_errors=True)  # each run begins anew

with BrokerManager(PLACE) as broker:
    for order in ("tea", "scones", "jam"):
        broker.publish("orders", order)
    for sink in ("kitchen", "till"):
        with Consumer(broker, "orders", sink=sink, idle_timeout=0.5) as consumer:
            for task in consumer:
                with task:
                    print(f"the {sink} has {task.payload}")

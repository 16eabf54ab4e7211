"""Pipes and filters: each step reads one stream and writes the next, and knows nothing of the others."""

import shutil
import threading

from dq import BrokerManager, Consumer

PLACE = "queue_data/examples/10_pipes_and_filters"
shutil.rmtree(PLACE, ignore_errors=True)  # each run begins anew


def run(step, source, target) -> None:
    with Consumer(broker, source, sink=step.__name__, idle_timeout=1) as consumer:
        for task in consumer:
            broker.publish(target, step(task.payload))
            task.ack()  # after it is stored in the next pipe


with BrokerManager(PLACE) as broker:
    for word in (" tea", "scones ", " jam "):
        broker.publish("raw", word)
    strip = threading.Thread(target=run, args=(str.strip, "raw", "clean"))
    strip.start()
    run(str.upper, "clean", "loud")
    strip.join()
    with Consumer(broker, "loud", sink="screen", idle_timeout=0.5) as screen:
        for task in screen:
            with task:
                print(task.payload)

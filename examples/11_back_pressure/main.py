"""Back-pressure: a consumer is sent what it asks for, and the rest waits on disk for whoever is free."""

import shutil
import threading
import time

from dq import BrokerManager, Consumer, Publisher

PLACE = "queue_data/examples/11_back_pressure"
shutil.rmtree(PLACE, ignore_errors=True)  # each run begins anew


def work(name: str, seconds: float) -> None:
    count = 0
    with Consumer(broker, "parcels", sink="drivers", prefetch=1, idle_timeout=0.5) as driver:
        for task in driver:
            with task:
                time.sleep(seconds)
            count += 1
    print(name, "delivered", count)


with BrokerManager(PLACE) as broker, Publisher(broker, "parcels") as publisher:
    publisher.publish_many(range(24))
    slow = threading.Thread(target=work, args=("the slow driver", 0.1))
    slow.start()
    time.sleep(0.5)
    work("the fast driver", 0.001)
    slow.join()

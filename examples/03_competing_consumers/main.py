"""Competing consumers: processes that share a sink share its work."""

import os
import shutil
import subprocess
import sys
import time

from dq import BrokerManager, Consumer, Publisher

PLACE = "queue_data/examples/03_competing_consumers"

if worker := "".join(sys.argv[1:]):
    with Consumer(PLACE, "photos", sink="resizers", prefetch=1, idle_timeout=0.5) as consumer:
        for task in consumer:
            with task:
                time.sleep(0.05)  # hard work
                print(f"{worker}, process {os.getpid()}, resized photo {task.payload}", flush=True)
else:
    shutil.rmtree(PLACE, ignore_errors=True)  # each run begins anew
    with BrokerManager(PLACE) as broker, Publisher(broker, "photos") as publisher:
        publisher.publish_many(range(24))
        for process in [subprocess.Popen([sys.executable, __file__, name]) for name in ("ada", "bob", "eve")]:
            process.wait()
        print(broker.sink("resizers").stats().settled, "of 24 photos are settled")

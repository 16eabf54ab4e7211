"""A poison message: a record that kills whoever takes it is found, alone, and put aside."""

import os
import shutil
import subprocess
import sys

from dq import BrokerManager, Consumer, Publisher

PLACE = "queue_data/examples/12_poison_message"

if sys.argv[1:] == ["worker"]:
    with Consumer(PLACE, "photos", sink="viewers", max_attempts=2, idle_timeout=0.5) as viewer:
        for task in viewer:
            with task:
                if task.payload == "poison":
                    os.kill(os.getpid(), 9)  # as a fault in a C library would
                print("showed", task.payload, flush=True)
else:
    shutil.rmtree(PLACE, ignore_errors=True)  # each run begins anew
    with BrokerManager(PLACE) as broker, Publisher(broker, "photos") as publisher:
        publisher.publish_many(["beach", "poison", "forest", "city"])
        while subprocess.run([sys.executable, __file__, "worker"]).returncode:
            print("a worker died", flush=True)
        with Consumer(broker, "photos-dlq", sink="doctor", idle_timeout=0.5) as doctor:
            for task in doctor:
                with task:
                    print("put aside:", task.payload, "because of", task.headers["dq-reason"])

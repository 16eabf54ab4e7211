"""A custom backend: a class of yours says how a stream is kept."""

import shutil
from pathlib import Path

import dq
from other_disk import OtherDisk

PLACE = "queue_data/examples/13_custom_backend"
DISK = Path(PLACE, "other_disk").absolute()
shutil.rmtree(PLACE, ignore_errors=True)  # each run begins anew

dq.register_backend("other_disk", OtherDisk)
with dq.BrokerManager(PLACE) as broker:
    broker.stream("films", backend="other_disk", backend_options={"disk": str(DISK)})
    for title in ("Metropolis", "Nosferatu"):
        broker.publish("films", title)
    with dq.Consumer(broker, "films", sink="viewers", idle_timeout=0.5) as viewers:
        for task in viewers:
            with task:
                print("seen:", task.payload)
for path in DISK.rglob("*.jsonl"):
    print("kept in:", path.relative_to(DISK))

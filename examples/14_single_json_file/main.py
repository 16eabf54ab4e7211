"""A single JSON file, written anew at each commit: the simplest storage, and why it loses."""

import os
import shutil
import time

from dq import BrokerManager, Consumer, DqError, Publisher
from one_file import OneFile

PLACE = "queue_data/examples/14_single_json_file"
FILE = f"{PLACE}/streams/letters/0/records.json"
shutil.rmtree(PLACE, ignore_errors=True)  # each run begins anew

with BrokerManager(PLACE) as broker:
    broker.stream("letters", backend=OneFile)
    with Publisher(broker, "letters", batch_size=50) as publisher:
        for count in (10_000, 20_000, 30_000):
            publisher.publish_many(range(9_999))
            began = time.monotonic()
            publisher.publish("one more")
            print(f"{count} records have their receipts, the last one after {time.monotonic() - began:.3f} s")
        pid, size, _ = broker.stats()["publisher_broker"]["pid"], os.path.getsize(FILE), [*map(publisher.submit, range(1000))]
        while (half := os.path.getsize(FILE)) == size:
            pass
        print(f"while process {pid} writes it, the file has {half:,} of {size:,} bytes")
    try:
        with Consumer(broker, "letters", sink="readers", idle_timeout=0.5) as reader:
            print(sum(1 for task in reader if not task.ack()), "records can be read")
    except DqError as error:
        print(error)

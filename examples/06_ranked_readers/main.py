"""Ranked readers: each reads its share of the buckets, and they need no word with one another."""

import shutil
from collections import Counter

from dq import BrokerManager, Publisher, Reader

PLACE = "queue_data/examples/06_ranked_readers"
shutil.rmtree(PLACE, ignore_errors=True)  # each run begins anew

with BrokerManager(PLACE) as broker:
    broker.stream("clicks", buckets=4)
    with Publisher(broker, "clicks") as publisher:
        publisher.publish_many(range(1000), key=lambda number: f"user-{number % 50}")
    seen = Counter()
    for rank in (0, 1):
        with Reader(broker, "clicks", start="oldest", follow=False, rank=rank, world_size=2) as reader:
            clicks = [(record.bucket, record.payload) for record in reader]
        print("rank", rank, "read", len(clicks), "clicks of the buckets", *sorted({bucket for bucket, _ in clicks}))
        seen.update(number for _, number in clicks)
    print(len(seen), "of 1000 clicks were read, each of them", *set(seen.values()), "times")

"""Replay from a time: a reader begins wherever it likes, as often as it likes, and leaves no trace."""

import shutil
from datetime import UTC, datetime

from dq import BrokerManager, Consumer, Reader

PLACE = "queue_data/examples/04_replay_from_a_time"
shutil.rmtree(PLACE, ignore_errors=True)  # each run begins anew

with BrokerManager(PLACE) as broker:
    for price in (10, 11):
        broker.publish("prices", price)
    noon = datetime.now(UTC)
    for price in (12, 14, 13):
        broker.publish("prices", price)
    for question in (min, max):
        with Reader(broker, "prices", start=noon, follow=False) as since_noon:
            prices = [record.payload for record in since_noon]
        print(question.__name__, "of", prices, "since noon:", question(prices, default=None))
    with Consumer(broker, "prices", sink="archive", idle_timeout=0.5) as archive:
        for task in archive:
            with task:
                print("archived:", task.payload)

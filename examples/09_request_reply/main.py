"""Request-reply: an answer names its question, so it may come in any order."""

import shutil
import threading

from dq import BrokerManager, Consumer

PLACE = "queue_data/examples/09_request_reply"
shutil.rmtree(PLACE, ignore_errors=True)  # each run begins anew


def answer() -> None:
    with Consumer(broker, "questions", sink="squarers", idle_timeout=0.5) as questions:
        for task in questions:
            with task:
                if task.payload == 2 and task.attempt == 1:
                    task.retry(after=0.2)  # the first one takes longest
                else:
                    broker.publish(task.headers["reply_to"], task.payload**2, headers={"request": task.id})


with BrokerManager(PLACE) as broker:
    asked = {broker.publish("questions", n, headers={"reply_to": "ada"}).id: n for n in (2, 3, 5)}
    squarer = threading.Thread(target=answer)
    squarer.start()
    with Consumer(broker, "ada", sink="ada", idle_timeout=1) as ada:
        for task in ada:
            with task:
                number = asked.pop(task.headers["request"])
                print("the square of", number, "is", task.payload)
    squarer.join()

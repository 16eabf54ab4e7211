"""A process that pushes, pops and takes until it is killed, and tells of each step before and after it on its output."""

from __future__ import annotations

import os
import random
import sys

from dq.embedded import PersistentQueue, store
from dq.embedded import persistent as faces


def main() -> None:
    path, seed, number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    chance = random.Random(seed)
    store.SEGMENT_BYTES, store.CURSOR_SEGMENT_BYTES, store.FRESH_BYTES = 60_000, 8_000, 4_000
    faces.READY_COUNT_MAX = 200

    def say(*words: object) -> None:
        os.write(1, (" ".join(map(str, words)) + "\n").encode())

    queue = PersistentQueue(path)
    say("open", len(queue))
    while True:
        act = chance.random()
        if act < 0.5:
            count = chance.choice((1, 3, 100))
            kind = chance.choice((b"", b"\xff", b"\xff" * 900))
            items = [b"%d:" % n + kind for n in range(number, number + count)]
            say("pushing", number, count)
            queue.push(items)
            say("pushed", number, count)
            number += count
        elif act < 0.9:
            say("popping")
            popped = queue.pop(chance.choice((1, 5, 90)))
            say("popped", *(item.partition(b":")[0].decode() for item in popped))
        else:
            with queue.take(chance.choice((1, 40))) as items:
                names = [item.partition(b":")[0].decode() for item in items]
                say("taken", *names)
            say("settled", *names)


if __name__ == "__main__":
    main()

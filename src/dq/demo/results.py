"""What the consumers found: read from the stream of results by a thread, each task counted once."""

from __future__ import annotations

import threading
from typing import Any

from dq.client.broker import Broker
from dq.client.consumer import Consumer
from dq.demo.failed import DemoFailed
from dq.demo.orders import RESULTS, SINKS
from dq.errors import DqError


class Results:
    """All results so far.

    Attributes:
        by_task: the first result of each task, by the task's id.
        again: results of tasks that had one already.
    """

    def __init__(self, broker: Broker) -> None:
        self.by_task: dict[str, dict[str, Any]] = {}
        self.again: list[dict[str, Any]] = []
        self._seen: set[str] = set()
        self._lock = threading.Lock()
        self._error: DqError | None = None
        self._consumer = Consumer(broker, RESULTS, sink=SINKS[RESULTS])
        self._thread = threading.Thread(target=self._read, daemon=True, name="dq-demo-results")
        self._thread.start()

    def _read(self) -> None:
        try:
            for task in self._consumer:
                with task:
                    self._take(task.id, task.payload)
        except DqError as error:
            self._error = error

    def _take(self, record: str, result: dict[str, Any]) -> None:
        with self._lock:
            if record in self._seen:  # delivered to us again; it was not published again
                return
            self._seen.add(record)
            if result["task"] in self.by_task:
                self.again.append(result)
            else:
                self.by_task[result["task"]] = result

    @property
    def count(self) -> int:
        """Tasks that have a result.

        Raises:
            DemoFailed: the results cannot be read any more.
        """
        if self._error is not None:
            raise DemoFailed(f"the results cannot be read: {self._error}")
        return len(self.by_task)

    def by_others(self, task: str, consumer: int) -> dict[str, Any] | None:
        """The result of this task by another consumer than this one."""
        with self._lock:
            return next((result for result in self._of(task) if result["consumer"] != consumer), None)

    def _of(self, task: str) -> list[dict[str, Any]]:
        first = [self.by_task[task]] if task in self.by_task else []
        return first + [result for result in self.again if result["task"] == task]

    def stop(self) -> None:
        """Ends the reading; safe twice."""
        self._consumer.stop()
        self._thread.join(5.0)
        self._consumer.close()

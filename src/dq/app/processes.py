"""`ProcessPool`: functions that hold the interpreter, each task in one of some worker processes.

One thread has all the workers: it sends tasks, reads verdicts, kills at timeouts and replaces what died; another one fetches.
Nothing of it blocks on a worker. A worker that dies costs the task that it worked on an attempt, and no other one: it works on
one at a time, in the order in which they were sent, and what it has said before it died is read first.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any, Final

from dq.app.config import AppConfig
from dq.app.engine import Delivery
from dq.app.handler import Handler
from dq.app.mailbox import Mailbox
from dq.app.outcomes import RELEASE, DeadLetter, Retry, tell_failure
from dq.app.pools import InFlight
from dq.app.worker_process import WorkerProcess
from dq.app.worker_task import verdict_from
from dq.core.retry import backoff, longest_backoff
from dq.errors import AlreadySettled, NotImportable, ProtocolError, UsageError
from dq.model.told import about, words_of
from dq.transport.pipe import Broken, Ended
from dq.transport.poller import Poller

log = logging.getLogger("dq")
_STARTS_MAX: Final = 5
"""Workers that die one after the other before one has imported its handler: then the handler is closed."""
_TURN_SECONDS: Final = 0.5
_END_SECONDS: Final = 2.0
"""What an idle worker has to end by itself at the end of the app."""
_DEAD = (Ended, Broken, ProtocolError, ValueError, KeyError, TypeError)


class ProcessPool:
    """Runs the tasks of a handler in worker processes.

    Args:
        mailbox: where they come from.
        config: `fetch_seconds`, `give_back_seconds` and `max_in_flight` count.
        wake: is called when a task begins after a time without any, so that ticks come soon.
        options: for the workers, as `worker_options` makes them.

    Attributes:
        deaths: workers that died with a task in hand, those killed at a timeout included.
        timeouts: workers that were killed at a timeout.
    """

    def __init__(self, mailbox: Mailbox, config: AppConfig, wake: Callable[[], None], options: bytes) -> None:
        self.handler: Handler = mailbox.handler
        self.places = min(self.handler.processes, self.handler.max_in_flight or config.max_in_flight)
        self.deaths = self.timeouts = 0
        self._mailbox, self._config, self._wake, self._options = mailbox, config, wake, options
        self._poller = Poller()
        self._workers: dict[WorkerProcess, None] = {}
        self._numbers = 0
        self._about = about(handler=self.handler.name)
        self._jitter = Random()
        self._start_at, self._failed_starts, self._was_ready = 0.0, 0, False
        self._room = threading.Condition()
        self._free = 0
        self._free_at = 0.0
        self._ended = False
        name = f"dq-{self.handler.name}"
        self._keeper = threading.Thread(target=self._keep, daemon=True, name=f"{name}-workers")
        self._fetcher = threading.Thread(target=self._fetch, daemon=True, name=name)

    def start(self) -> None:
        """The two threads; the first of them starts the workers."""
        self._free_at = time.monotonic()
        self._keeper.start()
        self._fetcher.start()

    # --- in the thread that fetches ------------------------------------------------------------------------------------

    def _fetch(self) -> None:
        """Fetches whenever a worker is free and nothing waits."""
        mailbox, seconds = self._mailbox, self._config.fetch_seconds
        while not mailbox.stopped:
            with self._room:
                if not self._room.wait_for(lambda: mailbox.stopped or (self._free and not mailbox.waiting), seconds):
                    continue
            if not mailbox.stopped and mailbox.refill(seconds):
                self._poller.call(self._wake)

    # --- in the thread that has the workers ----------------------------------------------------------------------------

    def _keep(self) -> None:
        try:
            while not self._ended:
                now = time.monotonic()
                self._fill_up(now)
                self._hand_out()
                self._poller.run_once(max(self._next_look(now) - time.monotonic(), 0.0))
                self._look(time.monotonic())
        except Exception as error:
            log.exception(
                "handler %s: its workers cannot be kept", self.handler.name, extra=about(error, handler=self.handler.name)
            )
            self._mailbox.failure = error
            self._mailbox.stopped = True
        finally:
            self._end()

    def _fill_up(self, now: float) -> None:
        """Starts workers, as many as are missing."""
        while len(self._workers) < self.places and now >= self._start_at and not self._mailbox.stopped:
            try:
                worker = WorkerProcess(self._options, self._poller.scratch)
            except OSError as error:
                self._not_started(f"a process cannot be started: {error}", now)
                return
            self._workers[worker] = None
            self._poller.add(worker.pipe, partial(self._hear, worker))
            if worker.pidfd is not None:
                self._poller.add(worker.pidfd, partial(self._died, worker))
            if self._failed_starts:
                return  # one at a time, until one has shown that it can be

    def _hand_out(self) -> None:
        """Gives what waits to the workers that have the least."""
        waiting = self._mailbox.waiting
        rooms = {worker: worker.room for worker in self._workers}
        while rooms and waiting and not self._mailbox.stopped:
            worker = max(rooms, key=lambda each: (not each.hand, rooms[each]))
            if rooms[worker] <= 0:
                break
            try:
                delivery = waiting.popleft()
            except IndexError:
                break
            if self._mailbox.expiring and self._mailbox.has_expired(delivery):
                continue
            rooms[worker] -= 1
            self._give(worker, delivery)
        with self._room:
            self._free = sum(max(room, 0) for room in rooms.values())
            if self._free and not waiting:
                self._room.notify_all()

    def _give(self, worker: WorkerProcess, delivery: Delivery) -> None:
        self._numbers += 1
        try:
            worker.give(self._numbers, delivery)
            self._poller.watch_writes(worker.pipe, lambda *_: None)
        except Broken:
            pass  # its end is seen by the poller
        except TypeError as error:
            said = f"TypeError: {error}"
            self._mailbox.settle(delivery, DeadLetter(f"the payload cannot go to a worker process: {error}", error=said))

    def _hear(self, worker: WorkerProcess) -> None:
        try:
            for said in worker.heard():
                self._take(worker, said)
        except _DEAD:
            self._died(worker)

    def _take(self, worker: WorkerProcess, said: dict[str, Any]) -> None:
        """One line of a worker's."""
        if "ready" in said:
            worker.ready = self._was_ready = True
            self._failed_starts = 0
        elif "failed" in said:
            worker.failed = str(said["failed"])
        elif "back" in said:
            self._came_back(worker, said["back"])
        elif "extend" in said or "early" in said:
            self._of_its_verbs(worker, said)
        elif (ended := worker.end_of(said["n"])) is not None and not ended.settled:
            self._settle(ended.delivery, said)

    def _came_back(self, worker: WorkerProcess, numbers: list[int]) -> None:
        """What was sent ahead of its turn, to a worker whose task takes long."""
        back = [each for each in worker.hand if each.number in set(numbers)]
        for each in back:
            worker.hand.remove(each)
        self._take_back([each.delivery for each in back])

    def _of_its_verbs(self, worker: WorkerProcess, said: dict[str, Any]) -> None:
        """What a handler has said of its task before it returned."""
        for each in worker.hand:
            if each.number == said["n"] and not each.settled:
                if "early" in said:
                    each.settled = True
                    self._settle(each.delivery, said)
                else:
                    with contextlib.suppress(AlreadySettled, UsageError):
                        each.delivery.extend(said["extend"], said["note"])

    def _settle(self, delivery: Delivery, said: dict[str, Any]) -> None:
        if said["v"] == "failed":
            self._failed(delivery, said["error"], said["traceback"], (said["place"], said["kind"], said["frames"]))
        else:
            self._mailbox.settle(delivery, verdict_from(said))

    def _failed(self, delivery: Delivery, error: str, lines: str = "", told: tuple[str, str, str] | None = None) -> None:
        """A task failed. `told`: what the log is to say of it; None: `error` is in words of dq's own."""
        tell_failure(self.handler.name, delivery, *(told or (error, error.partition(":")[0], "")))
        self._mailbox.settle(delivery, Retry(error=error, traceback=lines))

    # --- death -----------------------------------------------------------------------------------------------------------

    def _died(self, worker: WorkerProcess) -> None:
        """Hears its last words, settles what it worked on, and takes back what it had not begun."""
        if worker not in self._workers:
            return
        del self._workers[worker]
        with contextlib.suppress(*_DEAD):
            for said in worker.last_words():
                self._take(worker, said)
        self._poller.remove(worker.pipe)
        if worker.pidfd is not None:
            self._poller.remove(worker.pidfd)
        how = worker.bury()
        if not worker.ready:
            why = worker.failed or f"its worker process (pid {worker.pid}) {how} while it imported the handler"
            self._not_started(why, time.monotonic(), sure=bool(worker.failed))
            return
        culprit = worker.hand.popleft() if worker.hand and worker.late in (-1, worker.hand[0].number) else None
        self._take_back([each.delivery for each in worker.hand])
        if culprit is None:
            if worker.late < 0:
                log.warning(
                    "handler %s: an idle worker process (pid %d) %s", self.handler.name, worker.pid, how, extra=self._about
                )
                self._start_at = 0.0 if worker.done else time.monotonic() + longest_backoff(self._jitter) / 10
            return
        self.deaths += 1
        if culprit.settled:
            log.warning("handler %s: its worker process (pid %d) %s", self.handler.name, worker.pid, how, extra=self._about)
        elif worker.late >= 0:
            self._failed(culprit.delivery, f"HandlerTimeout: it ran longer than {self.handler.timeout:g} s, and was killed")
        else:
            self._failed(culprit.delivery, f"WorkerDied: its worker process (pid {worker.pid}) {how}")

    def _take_back(self, deliveries: list[Delivery]) -> None:
        """What was sent ahead is the next to be given out again; where no more is begun, it goes back."""
        for delivery in reversed(deliveries):
            if self._mailbox.stopped:
                self._mailbox.settle(delivery, RELEASE)
            else:
                self._mailbox.waiting.appendleft(delivery)

    def _not_started(self, why: str, now: float, *, sure: bool = False) -> None:
        """A worker could not be had. Tries again, a few times; a handler that no worker can import is closed.

        Args:
            sure: whether the worker said why itself: at the first start, it would say so again.
        """
        self._failed_starts += 1
        self._start_at = now + backoff(self._failed_starts, self._jitter)
        if self._failed_starts < _STARTS_MAX and (self._was_ready or not sure):
            log.warning("handler %s: %s; tried again", self.handler.name, words_of(why), extra=self._about)
        elif not self._mailbox.stopped:
            error = NotImportable(f"handler {self.handler.name!r} has no worker process: {why}")
            log.error("%s", words_of(error), extra=self._about)
            self._mailbox.give_up(error, alone=self._was_ready)

    # --- time ------------------------------------------------------------------------------------------------------------

    def _next_look(self, now: float) -> float:
        """When something is to be looked at, if nothing comes before."""
        at = now + _TURN_SECONDS
        if len(self._workers) < self.places and not self._mailbox.stopped:
            at = min(at, max(self._start_at, now))
        timeout = self.handler.timeout
        at = min([at, *(worker.stuck_at for worker in self._workers)])
        if timeout is not None:
            at = min([at, *(worker.hand[0].since + timeout for worker in self._workers if worker.hand and worker.late < 0)])
        return at

    def _look(self, now: float) -> None:
        """Kills those whose task has run for too long; where the system has no pidfd, asks who is dead."""
        timeout = self.handler.timeout
        for worker in list(self._workers):
            if timeout is not None and worker.hand and worker.late < 0 and now >= worker.hand[0].since + timeout:
                self._hear(worker)  # it may have ended it just now
                if worker in self._workers and worker.hand and now >= worker.hand[0].since + timeout:
                    worker.late = worker.hand[0].number
                    self.timeouts += 1
                    worker.kill()
            if worker in self._workers and now >= worker.stuck_at:
                worker.recall()
            if worker.pidfd is None and worker in self._workers and worker.ended:
                self._died(worker)

    # --- the end -----------------------------------------------------------------------------------------------------------

    def _end(self) -> None:
        """Busy workers at once, idle ones by themselves."""
        deadline = time.monotonic() + _END_SECONDS
        for worker in self._workers:
            if worker.ready and not worker.hand:
                worker.dismiss()
            else:
                worker.kill()
        for worker in self._workers:
            while time.monotonic() < deadline and not worker.ended:
                time.sleep(0.002)
            worker.bury()
        self._workers.clear()
        self._poller.close()

    # --- in the thread of the app ------------------------------------------------------------------------------------------

    def tick(self, now: float) -> bool:
        """Gives back what has waited for long while no worker was free."""
        busy = any(worker.hand for worker in list(self._workers))
        if self._free or not self._mailbox.waiting:
            self._free_at = now
        elif now - self._free_at > self._config.give_back_seconds:
            self._mailbox.give_back()
        return busy

    def in_flight(self) -> Sequence[InFlight]:
        """What the workers have."""
        return [InFlight(each.delivery, each.since) for worker in list(self._workers) for each in list(worker.hand)]

    def stop(self) -> None:
        """Nothing more is given to the workers; the mailbox says so."""
        with self._room:
            self._room.notify_all()

    def close(self) -> None:
        """Ends the workers: those that are busy are killed."""
        self._ended = True
        self.stop()
        if self._keeper.is_alive():
            self._poller.call(lambda: None)
            self._keeper.join(2 * _END_SECONDS)
        else:
            self._poller.close()

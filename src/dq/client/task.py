"""`Task`: a record in a consumer's hand, with the verbs that end it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from traceback import format_exception
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from dq import tracing
from dq.client.wishes import seconds_of
from dq.errors import AlreadySettled
from dq.model.outcome import Outcome
from dq.model.record import View

if TYPE_CHECKING:
    from dq.client.held_lease import HeldLease


_ERROR_CHARS_MAX, _TRACEBACK_CHARS_MAX = 1_000, 3_000
_ACK = Outcome.ACK  # a member looked up on its enum costs 40 ns, and an ack is made for every record


def _told(error: str, traceback: str) -> str:
    """An error as the broker keeps it: a line, and what else is known of it below."""
    line = " ".join(error.splitlines())[:_ERROR_CHARS_MAX]
    return f"{line}\n{traceback[-_TRACEBACK_CHARS_MAX:]}" if traceback else line


class Settler(Protocol):
    """Whoever gave the task out, and takes its end back."""

    @property
    def sink(self) -> str:
        """Name of the sink."""

    @property
    def consumer_id(self) -> str:
        """Id of the consumer."""

    def settle(self, task: Task, outcome: Outcome, *, after: float | None = None, reason: str = "", error: str = "") -> None:
        """The task's user decided; never blocks."""

    def extend(self, task: Task, seconds: float, note: str | None) -> None:
        """A sign of life."""

    def confirm(self) -> None:
        """Waits until what was decided is confirmed."""

    @property
    def max_attempts(self) -> int:
        """Deliveries of one record before it is dead-lettered."""


class Task(View):
    """A record to be worked on. Used as a context manager it is acked at the end, or retried if the block raises.

    Attributes:
        payload: a JSON value, or bytes.
        offset: its place in its bucket.
        outcome: what was decided, or None.
    """

    __slots__ = ("_fields", "_lease", "_traced", "offset", "outcome", "payload")

    def __init__(self, lease: HeldLease, offset: int, fields: dict[str, Any]) -> None:
        self._lease, self.offset, self._fields = lease, offset, fields
        self.outcome: Outcome | None = None
        try:
            self.payload = fields["payload"]
        except KeyError:
            self.payload = lease.raw_payload(fields)

    # What a whole lease shares is looked up there: a task is made for every record, and most of this is never asked for.
    @property
    def stream(self) -> str:  # type: ignore[override]
        """Name of the stream."""
        return str(self._lease.stream)

    @property
    def bucket(self) -> int:  # type: ignore[override]
        """Number of the bucket."""
        return int(self._lease.bucket)

    @property
    def sink(self) -> str:
        """Name of the sink."""
        return self._lease.settler.sink

    @property
    def consumer(self) -> str:
        """Id of the consumer that has it."""
        return self._lease.settler.consumer_id

    @property
    def publisher(self) -> str:
        """Id of the publisher that sent it."""
        return self._lease.publisher_of(self.offset)

    @property
    def attempt(self) -> int:
        """1 at the first delivery; counts the deliveries that burned an attempt."""
        return int(self._lease.attempts.get(self.offset, 0)) + 1

    @property
    def last_error(self) -> str | None:
        """Why it comes again, in one line, or None."""
        error = self._lease.errors.get(self.offset)
        return None if error is None else error.partition("\n")[0]

    @property
    def started(self) -> datetime:
        """When it came into this consumer's hand, in UTC."""
        return datetime.fromtimestamp(self._lease.received_wall, UTC)

    @property
    def completed(self) -> datetime | None:
        """When its outcome went to the broker, within 5 ms of the decision, in UTC; None before."""
        wall = self._lease.sent_wall(self.offset)
        return None if wall is None else datetime.fromtimestamp(wall, UTC)

    @property
    def last_check(self) -> datetime:
        """When the client last gave a sign of life for it, in UTC."""
        return datetime.fromtimestamp(self._lease.renewed_wall, UTC)

    @property
    def deadline(self) -> datetime:
        """Until when its lease lasts if no sign of life follows, in UTC. The client renews it while the task is in hand."""
        return datetime.fromtimestamp(self._lease.deadline_wall(self.offset), UTC)

    # --- the verbs -------------------------------------------------------------------------------------------------

    def ack(self, *, wait: bool = False) -> None:
        """It is done. On its way within 5 ms; with `wait=True` returns once the broker has confirmed it.

        Raises:
            AlreadySettled: it was settled before.
            BrokerLost: with `wait=True`, the broker did not come back.
        """
        if self.outcome is not None:
            raise self._settled_already("ack")
        self.outcome = _ACK
        acked = self._lease.acked
        acked.append(self.offset)  # atomic: tasks of one lease may be settled by several threads
        if len(acked) == 1:  # after the append: who takes the acks meanwhile must not find the lease without its ack
            self._lease.begin_acks()
        if wait:
            self._lease.settler.confirm()

    def drop(self) -> None:
        """It is not wanted: settled, without having been done.

        Raises:
            AlreadySettled: it was settled before.
        """
        self._settle(Outcome.DROP)

    def retry(self, after: float | timedelta | None = None, error: str = "", traceback: str = "") -> None:
        """It failed and is to come again.

        Args:
            after: seconds or a timedelta; default: 50 ms doubled at each attempt, up to 5 s, ±20 %.
            error: what the next one sees as `last_error`, in one line.
            traceback: text for the dead letter, should this have been the last attempt; of a long one the last 3,000
                characters are kept.

        Raises:
            AlreadySettled: it was settled before.
        """
        seconds = None if after is None else seconds_of("after", after)
        last = traceback if self.attempt >= self._lease.settler.max_attempts else ""
        self._settle(Outcome.RETRY, after=seconds, error=_told(error, last))

    def dead_letter(self, reason: str, error: str = "", traceback: str = "") -> None:
        """It can never be done: it goes to the stream of dead letters, with the reason.

        Args:
            error, traceback: as of `retry`.

        Raises:
            AlreadySettled: it was settled before.
        """
        self._settle(Outcome.DEAD_LETTER, reason=str(reason), error=_told(error, traceback))

    def release(self) -> None:
        """Gives it back as it was; no attempt is burned.

        Raises:
            AlreadySettled: it was settled before.
        """
        self._settle(Outcome.RELEASE)

    def extend(self, seconds: float | timedelta, note: str | None = None) -> None:
        """Asks for more time from now, and may leave a note about the progress for whoever watches.

        Raises:
            AlreadySettled: it was settled before.
        """
        if self.outcome is not None:
            raise self._settled_already("extend")
        amount = seconds_of("seconds", seconds, 0.001, 7 * 86_400)
        self._lease.settler.extend(self, amount, note)

    def _settle(self, outcome: Outcome, *, after: float | None = None, reason: str = "", error: str = "") -> None:
        if self.outcome is not None:
            raise self._settled_already(outcome)
        self.outcome = outcome
        self._lease.settler.settle(self, outcome, after=after, reason=reason, error=error)

    def _settled_already(self, verb: str) -> AlreadySettled:
        return AlreadySettled(f"task {self.id} cannot take {verb}: it was settled by {self.outcome} already")

    def expire(self) -> bool:
        """Settles it as expired if its time is over, and says whether it did; for who let it wait before it is begun."""
        if self.outcome is not None or self._lease.hands_out(self._fields, self.offset):
            return False
        self.outcome = Outcome.DROP
        return True

    @property
    def lease(self) -> HeldLease:
        """The lease it belongs to; for the client's own use."""
        return self._lease

    def __enter__(self) -> Task:
        if tracing.tracer is not None:
            self._traced = tracing.tracer.begin(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Acks; where the block raised an Exception, retries and lets it pass; at Ctrl-C and the like, gives the task back."""
        try:
            if self.outcome is not None:
                pass
            elif error is None:
                self.ack()
            elif isinstance(error, Exception):
                lines = "".join(format_exception(error)) if self.attempt >= self._lease.settler.max_attempts else ""
                self.retry(error=f"{type(error).__name__}: {error}", traceback=lines)
            else:
                self.release()
        finally:
            if tracing.tracer is not None:
                self._end_span(tracing.tracer, error)

    def _end_span(self, tracer: tracing.Tracer, error: BaseException | None) -> None:
        begun = getattr(self, "_traced", None)  # None where the process began to trace in between
        if begun is not None:
            tracer.end(begun, self, error)

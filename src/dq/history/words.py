"""Events and states in words. What users wrote stands in them as it is: who prints them makes it safe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from dq.history.values import HistoryEvent, Kind, RecordState

_RELEASED: Final = {
    "": "given back unstarted by {who}",
    "left": "given back: {who} left",
    "taken_back": "taken back from {who} by an operator",
    "not_back": "given back: {who} did not come back to it",
    "order": "given back by {who}: one before it comes first",
}


def who(consumer: str, pid: int) -> str:
    """A consumer, with its process where that is known."""
    if not consumer:
        return "a consumer"
    return f"{consumer} (pid {pid})" if pid else consumer


def span(seconds: float | None) -> str:
    """Seconds, in short."""
    return "some time" if seconds is None else f"{seconds:.3f}".rstrip("0").rstrip(".") + " s"


def first_line(text: str) -> str:
    """Of an error the line that says what it was; a traceback may follow."""
    return text.partition("\n")[0]


def _error(event: HistoryEvent) -> str:
    line = first_line(event.error)
    return f": {line}" if line else ""


def _released(event: HistoryEvent) -> str:
    return _RELEASED.get(event.reason, _RELEASED[""]).format(who=who(event.consumer, event.pid))


def _leased(event: HistoryEvent) -> str:
    alone = ", alone" if event.reason == "alone" else ""
    return f"leased to {who(event.consumer, event.pid)}, attempt {event.attempt}{alone}"


def _given_up(event: HistoryEvent) -> str:
    count = f"{event.attempt} attempt{'s' if event.attempt != 1 else ''}"
    return f"given up by {who(event.consumer, event.pid)} after {count}, {event.reason}{_error(event)}"


def _late(event: HistoryEvent) -> str:
    return ", late: it was not in its hand any more" if event.reason == "late" else ""


def _by(event: HistoryEvent) -> str:
    return f" by {who(event.consumer, event.pid)}" if event.consumer else ""


def _in_hand(event: HistoryEvent) -> str:
    return f", in the hand of {who(event.consumer, event.pid)}" if event.consumer else ""


def _kept(event: HistoryEvent) -> str:
    burned = f", {event.attempt} attempts burned" if event.attempt else ""
    return f"what was before is not kept; here it was {event.reason}{_by(event)}{burned}"


_WORDS: Final[dict[Kind, Callable[[HistoryEvent], str]]] = {
    Kind.PUBLISHED: lambda event: f"published by {event.publisher}",
    Kind.DELAYED: lambda event: f"published by {event.publisher}, to come {span(event.seconds)} later",
    Kind.CAME: lambda event: f"its time had come: it is {event.record} now",
    Kind.LEASED: _leased,
    Kind.DELIVERED: lambda event: f"delivered to {who(event.consumer, event.pid)}, and settled by that",
    Kind.EXTENDED: lambda event: f"given {span(event.seconds)} more, asked for{_by(event)}",
    Kind.ABANDONED: lambda event: f"left unsettled{_by(event)}",
    Kind.RELEASED: _released,
    Kind.FAILED: lambda event: (
        f"attempt {event.attempt} failed in {who(event.consumer, event.pid)}{_error(event)}; again after {span(event.seconds)}"
    ),
    Kind.OVERDUE: lambda event: (
        f"taken from {who(event.consumer, event.pid)}, whose time for it was over; attempts burned: {event.attempt}"
    ),
    Kind.LOST: lambda event: f"lost with {who(event.consumer, event.pid)}{_error(event)}; attempts burned: {event.attempt}",
    Kind.SUSPECTED: lambda event: (
        f"lost with {who(event.consumer, event.pid)} and others{_error(event)}; no attempt burned, it comes again alone"
    ),
    Kind.CLEARED: lambda _: "cleared: another record was to blame",
    Kind.PUT_OFF: lambda event: (
        f"attempt {event.attempt} failed in {who(event.consumer, event.pid)}{_error(event)}; again after {span(event.seconds)}"
    ),
    Kind.WAITS: lambda event: f"waits until then as {event.record}",
    Kind.GIVEN_UP: _given_up,
    Kind.BURIED: lambda event: f"stored as dead letter {event.record}",
    Kind.REPLAYED: lambda event: f"replayed as {event.record}, for sink {event.sink} alone",
    Kind.ACKED: lambda event: f"acked{_by(event)}{_late(event)}",
    Kind.DROPPED: lambda event: f"dropped{_by(event)}{_late(event)}",
    Kind.EXPIRED: lambda event: f"expired: its time was over before a handler had it{_in_hand(event)}",
    Kind.SKIPPED: lambda _: "passed over: it does not match the sink's filter",
    Kind.REMOVED: lambda _: "taken out of its stream",
    Kind.BEFORE_START: lambda _: "not for this sink, which begins behind it",
    Kind.SOUGHT: lambda event: (
        "its stream was made anew: what is told before is of another record" if event.reason else "void: the sink was moved"
    ),
    Kind.TRIMMED: lambda _: "given up by its stream before it was settled",
    Kind.CUT: lambda _: "lost by its stream after an unclean stop: another record may stand at its place",
    Kind.FORGOTTEN: lambda _: "void: the sink was taken off its stream",
    Kind.RESTARTED: lambda event: f"the broker began anew; {who(event.consumer, event.pid)} may come back to it",
    Kind.KEPT: _kept,
}


def sentence(event: HistoryEvent) -> str:
    """What happened, in a line."""
    return _WORDS[event.kind](event)


_WAITING: Final = {
    "waiting": "waiting",
    "suspect": "waiting, to be leased alone",
    "kept": "kept among the dead letters",
    "removed": "taken out",
}
_SETTLED: Final = {
    Kind.ACKED: "acked",
    Kind.DROPPED: "dropped",
    Kind.DELIVERED: "delivered",
    Kind.EXPIRED: "expired",
    Kind.SKIPPED: "passed over",
    Kind.REMOVED: "taken out of its stream",
    Kind.BEFORE_START: "before the sink's start",
    Kind.TRIMMED: "given up by its stream",
}


def standing(state: RecordState, moment: Callable[[float], str]) -> str:
    """How a record stands, in a line. `moment`: a time in words."""
    burned = f", {state.attempts} attempt{'s' if state.attempts != 1 else ''} burned" if state.attempts else ""
    if state.state in _WAITING:
        return _WAITING[state.state] + burned
    if state.state in ("leased", "isolated"):
        since = f" since {moment(state.since)}" if state.since is not None else ""
        return f"in the hand of {who(state.consumer, state.pid)}{since}{burned}"
    if state.state == "delayed":
        return f"delayed until {moment(state.until)}{burned}" if state.until is not None else f"delayed{burned}"
    if state.state in ("came", "replayed"):
        return f"{state.state} as {state.other}"
    if state.state == "dying":
        return f"becoming {'a dead letter' if state.by is Kind.GIVEN_UP else 'a delayed record'}{burned}"
    return _settled(state, moment)


def _settled(state: RecordState, moment: Callable[[float], str]) -> str:
    when = f" at {moment(state.since)}" if state.since is not None else ""
    if state.by is Kind.GIVEN_UP:
        return f"dead letter{' ' + state.other if state.other else ''}{when}"
    if state.by is Kind.PUT_OFF:
        return f"put off{' as ' + state.other if state.other else ''}{when}"
    if state.by is None or state.by is Kind.KEPT:
        return "settled, before what is kept"
    by = f", by {who(state.consumer, state.pid)}" if state.consumer else ""
    return f"settled{when}: {_SETTLED[state.by]}{by}"

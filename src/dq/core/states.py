"""The life of a record for one sink, as a table.

::

                            ack · drop, from anywhere but dying; deliver, from waiting;
                            skip, from where it is in no hand: waiting, delayed, suspect
              ┌──────────────────────────────────────────────────────────────┐
              │                                                              ▼
    committed │          lease               ack · drop                ┌─────────┐
    ──────► WAITING ───────────────► LEASED ─────────────────────────► │ SETTLED │
              ▲ ▲ ▲   release        │ │ │ │     dead_letter           └─────────┘
              │ │ └──── overdue ─────┘ │ │ └──────────────► DYING ──────────▲
              │ │ ready                │ │                    ▲   stored
              │ └─────── DELAYED ◄─────┘ │                    │
              │             │  ▲  retry  │ suspect · lose     │ dead_letter
              │ ready_alone │  │         │                    │
              │             ▼  │ retry   ▼                    │
              └───────── SUSPECT ◄───────┘ ─── lease ──► ISOLATED
                 clear       ▲                               │
                             └───── release · lose · overdue ┘

- WAITING: to be leased, together with its neighbours. Either new or given back.
- LEASED: in the hand of a consumer, maybe with many others.
- DELAYED: its handler failed; it waits for its time.
- SUSPECT: it was in the hand of a consumer that died or fell silent. It waits to be leased alone.
- ISOLATED: in the hand of a consumer that has nothing else. What goes wrong now is its own doing.
- DYING: the intent to dead-letter it is written; the dead letter is on its way and cannot be called back.
- SETTLED: over, for this sink. (A sink that is sought back begins its shard anew; this is of one such life.)

An ordered sink has the same table. There a record that is delayed or a suspect holds back all behind it: what of them
was in a hand is released (`ordering.py`), and an ack counts only from the lease that has the record in hand.

A step that is not in the table is refused with `IllegalStep`, and nothing has changed.
"""

from __future__ import annotations

from enum import Enum

from dq.errors import DqError


class IllegalStep(DqError):
    """Raised when a record is asked to do what its state does not allow; nothing has changed. A fault within dq."""


class State(Enum):
    """Where a record stands for one sink."""

    WAITING = "waiting"
    LEASED = "leased"
    DELAYED = "delayed"
    SUSPECT = "suspect"
    ISOLATED = "isolated"
    DYING = "dying"
    SETTLED = "settled"


class Step(Enum):
    """What can happen to a record."""

    LEASE = "lease"
    """It goes to a consumer."""
    ACK = "ack"
    """Done. It may come late: after the lease was lost, while the record waits or is in another's hand."""
    DROP = "drop"
    """Not to be done. As an ack for the broker, told apart in the log."""
    SKIP = "skip"
    """Not for this sink: it does not match its filter, or was taken out of the stream. Settled unseen."""
    DELIVER = "deliver"
    """It goes to a consumer of a sink without acks, and is settled as it goes."""
    RELEASE = "release"
    """Given back unstarted; no attempt is burned."""
    RETRY = "retry"
    """Its handler failed; an attempt is burned."""
    READY = "ready"
    """Its delay is over."""
    READY_ALONE = "ready_alone"
    """Its delay is over, and a consumer died of it before."""
    SUSPECT = "suspect"
    """Its consumer was lost with several records in hand; no attempt is burned."""
    LOSE = "lose"
    """Its consumer was lost with this one in hand; an attempt is burned."""
    OVERDUE = "overdue"
    """A deadline of its own passed while its consumer lived on; an attempt is burned."""
    CLEAR = "clear"
    """Another one of its group turned out to be the culprit."""
    DEAD_LETTER = "dead_letter"
    """The intent to give it up is written."""
    STORED = "stored"
    """Its dead letter is committed."""


_S = State

STEPS: dict[State, dict[Step, State]] = {
    State.WAITING: {
        Step.LEASE: _S.LEASED,
        Step.DELIVER: _S.SETTLED,
        Step.SKIP: _S.SETTLED,
        Step.ACK: _S.SETTLED,
        Step.DROP: _S.SETTLED,
    },
    State.LEASED: {
        Step.ACK: _S.SETTLED,
        Step.DROP: _S.SETTLED,
        Step.RELEASE: _S.WAITING,
        Step.RETRY: _S.DELAYED,
        Step.SUSPECT: _S.SUSPECT,
        Step.LOSE: _S.SUSPECT,
        Step.OVERDUE: _S.WAITING,
        Step.DEAD_LETTER: _S.DYING,
    },
    State.DELAYED: {
        Step.READY: _S.WAITING,
        Step.READY_ALONE: _S.SUSPECT,
        Step.SKIP: _S.SETTLED,
        Step.ACK: _S.SETTLED,
        Step.DROP: _S.SETTLED,
    },
    State.SUSPECT: {
        Step.LEASE: _S.ISOLATED,
        Step.CLEAR: _S.WAITING,
        Step.SKIP: _S.SETTLED,
        Step.ACK: _S.SETTLED,
        Step.DROP: _S.SETTLED,
    },
    State.ISOLATED: {
        Step.ACK: _S.SETTLED,
        Step.DROP: _S.SETTLED,
        Step.RELEASE: _S.SUSPECT,
        Step.RETRY: _S.DELAYED,
        Step.LOSE: _S.SUSPECT,
        Step.OVERDUE: _S.SUSPECT,
        Step.DEAD_LETTER: _S.DYING,
    },
    State.DYING: {Step.STORED: _S.SETTLED},
    State.SETTLED: {},
}
"""What may follow what: every state has a row, and what is not in a row is refused."""


def after(state: State, step: Step) -> State:
    """The state that follows `state` by `step`.

    Raises:
        IllegalStep: the table has no such entry.
    """
    try:
        return STEPS[state][step]
    except KeyError:
        raise IllegalStep(f"a record that is {state.value} cannot {step.value}; nothing was changed") from None

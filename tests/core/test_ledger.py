import pytest

from dq.core.leases import Hand, Lease
from dq.core.ledger import Burned, Ledger
from dq.core.states import STEPS, IllegalStep, State, Step
from dq.model.dead_letter import DeadLetter

# A record in each state, in one ledger.
PLACES = {
    State.SETTLED: 0,
    State.WAITING: 1,
    State.LEASED: 2,
    State.DELAYED: 3,
    State.SUSPECT: 4,
    State.ISOLATED: 5,
    State.DYING: 6,
}
LETTER = DeadLetter(intent=0, stream="emails", bucket=0, offset=6, attempts=5, reason="max_attempts", error="", consumer="a")


@pytest.fixture
def ledger():
    made = Ledger(("emails", 0), 0, "uuid-1", 1)
    made.next, made.end, made.floor = 8, 10, 1
    made.returned.add(1, 2)
    made.delayed[3] = 0.5
    made.suspects.add(4, 5)
    made.dying[6] = LETTER
    made.settled.add(7, 8)
    made.burned[3] = Burned(1, "boom", False)
    for number, (state, offset) in enumerate([(State.LEASED, 2), (State.ISOLATED, 5)]):
        made.leases[number] = Lease(number, Hand(state.value), made.shard, offset, offset + 1, 200, state)
    return made


def everything(ledger):
    hands = [(lease.hand.records, lease.hand.size, list(lease.open)) for lease in ledger.leases.values()]
    sets = [list(each) for each in (ledger.settled, ledger.returned, ledger.suspects)]
    dicts = [dict(each) for each in (ledger.delayed, ledger.dying, ledger.burned, ledger.leases)]
    return [ledger.floor, ledger.next, ledger.end, *sets, *dicts, *hands]


@pytest.mark.parametrize("state", State)
def test_a_ledger_knows_where_a_record_stands(ledger, state):
    assert ledger.state_of(PLACES[state]) is state


@pytest.mark.parametrize(("state", "step"), [(state, step) for state in State for step in Step if step not in STEPS[state]])
def test_an_illegal_step_is_refused_and_nothing_changed(ledger, state, step):
    before = everything(ledger)
    with pytest.raises(IllegalStep):
        ledger.step(PLACES[state], step)
    assert everything(ledger) == before


@pytest.mark.parametrize("step", Step)
def test_what_was_never_leased_takes_no_step_and_nothing_changed(ledger, step):
    before = everything(ledger)
    for offset in (8, 9, 10, 1_000):
        with pytest.raises(IllegalStep):
            ledger.step(offset, step)
    assert everything(ledger) == before


@pytest.mark.parametrize("step", [Step.READY, Step.CLEAR, Step.STORED, Step.LEASE])
def test_a_step_of_a_whole_lease_is_held_to_the_table_too(ledger, step):
    before = everything(ledger)
    with pytest.raises(IllegalStep):
        ledger.give(ledger.leases[0], step, 2, 3)
    assert everything(ledger) == before


@pytest.mark.parametrize(
    ("state", "step"),
    [
        (state, step)
        for state, row in STEPS.items()
        for step, result in row.items()
        if result in (State.WAITING, State.SUSPECT, State.SETTLED)
    ],
)
def test_a_legal_step_brings_a_record_where_the_table_says(ledger, state, step):
    offset = PLACES[state]
    assert ledger.step(offset, step) is STEPS[state][step]
    assert ledger.state_of(offset) is STEPS[state][step]
    for other, place in PLACES.items():
        if place != offset:
            assert ledger.state_of(place) is other


def test_only_what_waits_can_be_leased(ledger):
    assert ledger.leasable(State.WAITING, 1, 2) is State.LEASED
    assert ledger.leasable(State.WAITING, 8, 10) is State.LEASED
    assert ledger.leasable(State.SUSPECT, 4, 5) is State.ISOLATED
    for source, first, stop in [(State.WAITING, 2, 3), (State.WAITING, 1, 3), (State.SUSPECT, 1, 2), (State.WAITING, 9, 10)]:
        with pytest.raises(IllegalStep):
            ledger.leasable(source, first, stop)


def test_the_floor_rises_over_what_was_settled_out_of_order():
    ledger = Ledger(("emails", 0), 0, "uuid-1", 1)
    ledger.next = ledger.end = 30
    for first, stop, floor in [(5, 10, 0), (20, 30, 0), (0, 4, 4), (4, 5, 10), (10, 20, 30)]:
        ledger.settle(first, stop)
        assert ledger.floor == floor
    assert not ledger.settled


def test_trimming_settles_what_is_below_and_tells_what_was_missed(ledger):
    # Below 6: one settled; one each waiting, leased, delayed, suspect, isolated.
    assert ledger.trim(6) == 5
    assert (ledger.floor, ledger.next) == (6, 8)
    assert ledger.state_of(6) is State.DYING
    assert all(lease.hand.records == lease.open.count == 0 for lease in ledger.leases.values())
    assert ledger.trim(6) == 0


def test_trimming_beyond_the_end_moves_all_of_it(ledger):
    assert ledger.trim(100) == 97  # neither the settled 0 and 7, nor the dying 6
    assert (ledger.floor, ledger.next, ledger.end) == (100, 100, 100)


def test_a_dead_letter_is_stored_even_when_its_record_was_trimmed(ledger):
    ledger.trim(100)
    assert ledger.step(6, Step.STORED) is State.SETTLED
    assert (ledger.floor, list(ledger.settled), ledger.dying) == (100, [], {})


def test_what_is_remembered_of_a_record_is_forgotten_when_it_is_settled(ledger):
    ledger.take(3, 4)
    ledger.settle(3, 4)
    assert ledger.burned == {}

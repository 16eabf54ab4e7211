import pytest

from dq.core.states import STEPS, IllegalStep, State, Step, after

ILLEGAL = [(state, step) for state in State for step in Step if step not in STEPS[state]]


def test_every_state_has_a_row():
    assert set(STEPS) == set(State)


def test_every_state_and_every_step_is_reached():
    assert {step for row in STEPS.values() for step in row} == set(Step)
    assert {state for row in STEPS.values() for state in row.values()} == set(State)


def test_from_every_state_a_record_can_be_settled():
    for state in State:
        reached = {state}
        while True:
            more = reached | {state for each in reached for state in STEPS[each].values()}
            if more == reached:
                break
            reached = more
        assert State.SETTLED in reached


def test_what_is_settled_stays_settled():
    assert STEPS[State.SETTLED] == {}


@pytest.mark.parametrize(("state", "step"), ILLEGAL)
def test_an_illegal_step_is_refused_by_name(state, step):
    with pytest.raises(IllegalStep, match=f"{state.value} cannot {step.value}"):
        after(state, step)

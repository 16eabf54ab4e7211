from hypothesis import given
from hypothesis import strategies as st

from dq.core.deadlines import Deadlines


def test_what_is_due_comes_in_order_of_time_and_once():
    deadlines = Deadlines()
    for key, when in [("c", 3.0), ("a", 1.0), ("b", 2.0), ("b2", 2.0)]:
        deadlines.set(key, when)
    assert deadlines.first() == 1.0
    assert deadlines.due(0.9) == []
    assert deadlines.due(2.0) == ["a", "b", "b2"]
    assert deadlines.due(9.0) == ["c"]
    assert deadlines.first() is None


def test_a_moved_deadline_is_due_at_its_new_time_alone():
    deadlines = Deadlines()
    deadlines.set("later", 1.0)
    deadlines.set("later", 5.0)
    deadlines.set("sooner", 5.0)
    deadlines.set("sooner", 2.0)
    assert deadlines.due(1.5) == []
    assert deadlines.due(4.0) == ["sooner"]
    assert deadlines.due(5.0) == ["later"]
    assert deadlines.due(100.0) == []


def test_hastening_never_delays():
    deadlines = Deadlines()
    deadlines.hasten("a", 5.0)
    deadlines.hasten("a", 9.0)
    assert deadlines.first() == 5.0
    deadlines.hasten("a", 2.0)
    assert deadlines.first() == 2.0


def test_a_cancelled_deadline_is_never_due():
    deadlines = Deadlines()
    deadlines.set("a", 1.0)
    deadlines.cancel("a")
    deadlines.cancel("unknown")
    assert deadlines.first() is None
    assert deadlines.due(9.0) == []


def test_renewals_do_not_grow_the_heap():
    deadlines = Deadlines()
    for second in range(10_000):
        deadlines.set("renewed", float(second))
        deadlines.set(("once", second), 5.0)
        deadlines.cancel(("once", second))
        deadlines.set("hastened", -float(second))
    assert len(deadlines) == 2
    assert len(deadlines._heap) < 100


@given(st.lists(st.tuples(st.integers(0, 4), st.none() | st.integers(0, 20)), max_size=60), st.integers(0, 20))
def test_deadlines_agree_with_a_plain_dict(steps, now):
    deadlines, model = Deadlines(), {}
    for key, when in steps:
        if when is None:
            deadlines.cancel(key)
            model.pop(key, None)
        else:
            deadlines.set(key, float(when))
            model[key] = float(when)
        assert deadlines.first() == min(model.values(), default=None)
    due = deadlines.due(float(now))
    assert sorted(due) == sorted(key for key, when in model.items() if when <= now)
    assert [model[key] for key in due] == sorted(model[key] for key in due)

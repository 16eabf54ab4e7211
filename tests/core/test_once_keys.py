"""The keys of `publish(once=)` against a model that keeps them all, while time moves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dq.core.once_keys import OnceKeys, bucket_and_offset, digest_of, place_of

WINDOW, LIMIT = 10.0, 8
STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "add", "add", "fail"]), st.integers(0, 12), st.sampled_from([0.0, 0.05, 1.0, 4.9, 10.0])),
    max_size=60,
)


@given(STEPS)
def test_a_key_is_known_for_its_window_and_little_longer(steps: list[tuple[str, int, float]]) -> None:
    keys, model, now = OnceKeys(WINDOW, LIMIT), dict[int, tuple[float, int]](), 100.0
    for number, (act, key, passed) in enumerate(steps):
        now += passed
        digest = digest_of(str(key))
        found, (since, place) = keys.find(digest, now), model.get(key, (-1e9, -1))
        if now - since < WINDOW:
            assert found == place
        elif now - since >= WINDOW + WINDOW / 100 or found is None:
            assert found is None
        alive = sum(now - since < WINDOW for since, _ in model.values())
        late = sum(now - since < WINDOW * 1.01 for since, _ in model.values())
        assert alive <= len(keys) <= late
        if found is None and not keys.full:
            mark = keys.add(digest, place_of(3, number), now)
            model[key] = (now, place_of(3, number))
            if act == "fail":
                keys.forget(digest, mark)
                del model[key]
        assert len(keys) <= LIMIT


def test_a_place_is_one_number():
    for bucket, offset in ((0, 0), (1023, (1 << 50) - 1), (7, 12)):
        assert bucket_and_offset(place_of(bucket, offset)) == (bucket, offset)


def test_of_a_key_found_twice_in_a_log_the_last_counts_and_of_too_many_the_newest():
    a, b, c = map(digest_of, "abc")
    keys = OnceKeys(WINDOW, 2)
    keys.load([(0.0, a, 1), (1.0, b, 2), (2.0, a, 3), (3.0, c, 4)])
    assert [keys.find(key, 5.0) for key in (a, b, c)] == [3, None, 4]
    assert keys.full
    assert [keys.find(key, 12.1) for key in (a, b, c)] == [None, None, 4]
    keys.expire(14.0)
    assert len(keys) == 0

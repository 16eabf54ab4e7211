from collections import Counter
from hashlib import md5

import pytest

from dq.core.buckets import BucketRouter, bucket_of


def test_the_bucket_of_a_key_is_that_of_the_written_formula():
    for key in ["ada", "", "ключ", 7, 7.5, None, True]:
        assert bucket_of(key, 16) == int(md5(str(key).encode()).hexdigest(), 16) % 16


@pytest.mark.parametrize(("key", "buckets", "bucket"), [("ada", 16, 9), ("ada", 3, 1), ("user7", 16, 13), ("", 7, 1)])
def test_the_bucket_of_a_key_never_changes(key, buckets, bucket):
    assert bucket_of(key, buckets) == bucket


def test_a_router_agrees_with_the_formula_however_often_it_is_asked():
    router = BucketRouter(8)
    for key in ["ada", 7, "7", None, "ada"]:
        assert router.of(key) == bucket_of(key, 8)


def test_a_router_forgets_keys_rather_than_grow_without_end(monkeypatch):
    monkeypatch.setattr("dq.core.buckets._CACHED_KEYS_MAX", 10)
    router = BucketRouter(8)
    for number in range(1_000):
        assert router.of(number) == bucket_of(number, 8)
    assert len(router._known) <= 10


def test_batches_without_key_go_to_the_buckets_in_turn():
    router = BucketRouter(3, start=5)
    assert [router.next() for _ in range(5)] == [2, 0, 1, 2, 0]


def test_keys_spread_evenly():
    counts = Counter(bucket_of(f"user{number}", 8) for number in range(8_000))
    assert min(counts.values()) > 850
    assert max(counts.values()) < 1_150

from random import Random

from dq.core.retry import backoff, longest_backoff


def test_the_backoff_doubles_from_50_ms_to_5_s_with_a_jitter_of_a_fifth():
    jitter = Random(1)
    for attempts in range(1, 20):
        plain = min(0.05 * 2 ** (attempts - 1), 5.0)
        for _ in range(50):
            assert plain * 0.8 <= backoff(attempts, jitter) <= plain * 1.2


def test_records_that_failed_together_do_not_come_back_together():
    jitter = Random(1)
    assert len({backoff(3, jitter) for _ in range(100)}) == 100


def test_any_number_of_attempts_has_a_backoff():
    assert backoff(1_000_000, Random(1)) <= 6.0
    assert 4.0 <= longest_backoff(Random(1)) <= 6.0

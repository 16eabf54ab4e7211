"""The checker checked: histories by hand, each with one fault in it, which must be found."""

from __future__ import annotations

from history import Acked, Info, Invoke, Ok, Read, Recv, check, check_reading


def recv(record: str, offset: int, at: int = 10, *, attempt: int = 1, whole: bool = True) -> Recv:
    return Recv(at, "c", record, (0, offset), attempt, whole)


GOOD = [
    Invoke(["a", "b"]),
    Ok("p", ["a", "b"], [(0, 0), (0, 1)]),
    recv("a", 0, 10),
    recv("b", 1, 11),
    Acked(20, "c", ["a", "b"]),
]


def test_a_good_history_has_no_fault():
    verdict = check(GOOD)
    assert verdict.faults == {}
    assert (verdict.invoked, verdict.stored, verdict.received, verdict.acked, verdict.twice) == (2, 2, 2, 2, 0)


def test_a_record_with_a_receipt_that_nobody_received_is_lost():
    history = [Invoke(["a", "b"]), Ok("p", ["a", "b"], [(0, 0), (0, 1)]), recv("a", 0)]
    assert check(history).faults == {"lost": ["b"]}


def test_a_lost_record_is_found_where_only_the_number_of_receipts_is_known():
    history = [Invoke(["a", "b"]), Ok("p", ["a", "b"], [(0, 0), (1, 0)], exact=False), recv("b", 0)]
    assert check(history).faults == {"lost": ["a"]}


def test_a_record_without_a_receipt_may_be_missing_or_come():
    missing = check([Invoke(["a"]), Info(["a"])])
    come = check([Invoke(["a"]), Info(["a"]), recv("a", 0)])
    assert (missing.faults, come.faults) == ({}, {})
    assert (missing.recovered, come.recovered) == (0, 1)


def test_a_record_that_nobody_published_is_unexpected():
    assert check([*GOOD, recv("x", 2)]).faults == {"unexpected": ["x"]}


def test_a_record_with_other_bytes_is_unexpected():
    history = [Invoke(["a"]), Ok("p", ["a"], [(0, 0)]), recv("a", 0, whole=False)]
    assert check(history).faults == {"unexpected": ["a"]}


def test_a_record_that_comes_after_its_ack_was_confirmed_is_redelivered():
    assert check([*GOOD, recv("a", 0, 21, attempt=2)]).faults == {"redelivered": ["a"]}


def test_a_record_that_comes_again_before_an_ack_was_confirmed_is_only_counted():
    verdict = check([*GOOD, recv("a", 0, 19, attempt=2)])
    assert verdict.faults == {}
    assert verdict.twice == 1


def test_the_order_in_which_the_lines_of_two_processes_arrive_does_not_matter():
    acked_line_came_first = [GOOD[0], GOOD[1], GOOD[4], GOOD[2], GOOD[3]]
    assert check(acked_line_came_first).faults == {}


def test_a_record_from_another_place_than_its_receipt_says_is_misplaced():
    history = [Invoke(["a"]), Ok("p", ["a"], [(0, 0)]), recv("a", 1)]
    assert check(history).faults == {"misplaced": ["a"]}


def test_two_records_at_one_place_are_misplaced():
    history = [Invoke(["a", "b"]), recv("a", 0), recv("b", 0)]
    assert check(history).faults == {"misplaced": ["b"]}


def test_a_record_stored_twice_is_misplaced():
    assert check([*GOOD, recv("b", 2, 12)]).faults == {"misplaced": ["b"]}
    assert check([Invoke(["a"]), Info(["a"]), recv("a", 0), recv("a", 1)]).faults == {"misplaced": ["a"]}


def test_receipts_whose_offsets_do_not_rise_are_disordered():
    history = [
        Invoke(["a", "b"]),
        Ok("p", ["a"], [(0, 1)]),
        Ok("p", ["b"], [(0, 0)]),
        recv("a", 1),
        recv("b", 0),
    ]
    assert check(history).faults == {"disordered": ["b"]}


def test_receipts_of_two_buckets_or_two_publishers_have_no_order():
    history = [Ok("p", ["a"], [(0, 1)]), Ok("p", ["b"], [(1, 0)]), Ok("q", ["c"], [(0, 0)])]
    assert check(history).disordered == []


# --- a reader --------------------------------------------------------------------------------------------------------


def read(record: str, offset: int, bucket: int = 0, *, whole: bool = True) -> Read:
    return Read("r", record, (bucket, offset), whole)


PUBLISHED = [Invoke(["a", "b", "c"]), Ok("p", ["a", "b"], [(0, 0), (0, 1)]), Info(["c"])]


def test_a_reader_that_saw_every_record_once_and_in_order_has_no_fault():
    verdict = check_reading([*PUBLISHED, read("a", 0), read("b", 1)])
    assert verdict.faults == {}
    assert (verdict.read, verdict.recovered) == (2, 0)


def test_a_reader_may_see_a_record_without_a_receipt():
    verdict = check_reading([*PUBLISHED, read("a", 0), read("b", 1), read("c", 0, bucket=1)])
    assert verdict.faults == {}
    assert (verdict.read, verdict.recovered) == (3, 1)


def test_a_record_with_a_receipt_that_was_not_read_is_lost():
    assert check_reading([*PUBLISHED, read("a", 0)]).faults == {"lost": ["b"]}


def test_a_record_that_was_read_and_never_published_is_unexpected():
    assert check_reading([*PUBLISHED, read("a", 0), read("b", 1), read("x", 2)]).faults == {"unexpected": ["x"]}


def test_a_record_that_was_read_with_other_bytes_is_unexpected():
    assert check_reading([*PUBLISHED, read("a", 0), read("b", 1, whole=False)]).faults == {"unexpected": ["b"]}


def test_a_record_that_was_read_again_is_repeated_and_out_of_order():
    history = [*PUBLISHED, read("a", 0), read("b", 1), read("b", 1)]
    assert check_reading(history).faults == {"repeated": ["b"], "disordered": ["b"]}


def test_a_record_that_stands_at_two_places_is_repeated_and_misplaced():
    history = [*PUBLISHED, read("a", 0), read("b", 1), read("c", 2), read("c", 3)]
    assert check_reading(history).faults == {"repeated": ["c"], "misplaced": ["c"]}


def test_records_that_were_read_out_of_order_are_disordered():
    assert check_reading([*PUBLISHED, read("b", 1), read("a", 0)]).faults == {"disordered": ["b", "a"]}


def test_an_offset_that_was_left_out_is_found_though_nobody_has_a_receipt_for_it():
    assert check_reading([*PUBLISHED, read("a", 0), read("b", 1), read("c", 3)]).faults == {"disordered": ["c"]}


def test_a_record_that_was_read_from_another_place_than_its_receipt_says_is_misplaced():
    assert check_reading([*PUBLISHED, read("a", 0), read("b", 0, bucket=1)]).faults == {"misplaced": ["b"]}


def test_buckets_have_no_order_among_them():
    history = [Invoke(["a", "b"]), Ok("p", ["a", "b"], [(0, 0), (1, 0)]), read("b", 0, bucket=1), read("a", 0)]
    assert check_reading(history).faults == {}

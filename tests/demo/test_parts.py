"""The pure parts of the demonstration."""

from __future__ import annotations

from pathlib import Path

import pytest

from dq.demo.direct import count_directly
from dq.demo.examine import FILE_FIGURES, examine, examine_line, examine_source, total
from dq.demo.failed import DemoFailed
from dq.demo.kills import BrokerKill, unanswered
from dq.demo.report import Spread, spread_of
from dq.demo.source import find_work
from dq.demo.workers import _SPEED_BODY
from dq.model.record import encode


@pytest.mark.parametrize(
    ("content", "lines"),
    [(b"", 0), (b"a = 1", 1), (b"a = 1\n", 1), (b"a = 1\n\nb = 2", 3)],
    ids=["none", "open", "ended", "gap"],
)
def test_the_last_line_counts_with_or_without_its_end(content: bytes, lines: int) -> None:
    assert examine_source("x.py", content)["lines"] == lines


def test_functions_and_classes_are_counted_wherever_they_stand() -> None:
    content = b"class A:\n    def f(self):\n        async def g():\n            class B: pass\nlambda: 0\n"
    found = examine_source("x.py", content)
    assert (found["functions"], found["classes"]) == (2, 2)


@pytest.mark.parametrize(
    "content", [b"def f(:", b"\xff\xfe", b"x = '\x00'", b"(" * 5000], ids=["syntax", "encoding", "nul", "depth"]
)
def test_what_cannot_be_parsed_has_a_problem_and_no_functions(content: bytes) -> None:
    found = examine_source("x.py", content)
    assert found["problem"]
    assert found["functions"] == 0
    assert len(found["sha256"]) == 64


def test_a_file_that_is_gone_is_a_result_and_not_an_error(tmp_path: Path) -> None:
    found = examine({"path": str(tmp_path / "gone.py")})
    assert "cannot be read" in found["problem"]


def test_totals_do_not_depend_on_the_order_of_the_results() -> None:
    results = [examine_source(f"{name}.py", name.encode()) for name in "abc"]
    assert total(results, FILE_FIGURES) == total(reversed(results), FILE_FIGURES)
    assert total(results[:2], FILE_FIGURES) != total(results[1:], FILE_FIGURES)


def test_words_are_counted() -> None:
    assert examine_line(1, "  one  two\tthree ")["words"] == 3
    assert examine_line(1, "")["words"] == 0


def test_the_direct_count_is_that_of_the_consumers(tmp_path: Path) -> None:
    for number in range(40):  # more than are read ahead
        (tmp_path / f"m{number}.py").write_text(f"def f(): return {number}\n" * number)
    work = find_work(str(tmp_path))
    (tmp_path / "m7.py").unlink()
    totals = count_directly(work)
    assert totals == total([examine(task) for task in work.payloads], work.figures)
    assert (totals.tasks, totals.problems, totals.figures["functions"]) == (40, 1, sum(range(40)) - 7)


def test_hidden_directories_are_left_out_and_names_are_in_order(tmp_path: Path) -> None:
    for name in ("b.py", "a.py", "c.txt", ".venv/d.py", "e/f.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    work = find_work(str(tmp_path))
    assert [work.short(name) for name in work.names()] == ["a.py", "b.py", "e/f.py"]


def test_a_file_that_is_not_utf_8_still_has_its_lines(tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b"one\xff two\r\nthree\n")
    work = find_work(str(tmp_path / "lines"))
    assert len(work.payloads) == 2
    assert count_directly(work).figures == {"words": 3}


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lines").touch()
    with pytest.raises(DemoFailed, match="no lines"):
        find_work(str(tmp_path / "lines"))


def test_the_standard_library_is_found_without_its_tests() -> None:
    work = find_work(None)
    names = [work.short(name) for name in work.names()]
    assert {"ast.py", "json/decoder.py"} <= set(names)
    assert not [name for name in names if {"test", "tests", "site-packages"} & set(name.split("/")[:-1])]


def test_percentiles_are_by_the_nearest_rank() -> None:
    assert spread_of([number / 1000 for number in range(1, 101)]) == Spread(100, 50.0, 99.0)
    assert spread_of([0.001]) == Spread(1, 1.0, 1.0)
    assert spread_of([]) == Spread(0, 0.0, 0.0)


def test_the_records_under_way_at_a_kill_are_those_called_before_and_answered_after() -> None:
    kill = BrokerKill(at=100.0, second=1.0, pid=1, new_pid=2, ready_ms=0.0)
    found = unanswered(kill, [(99.0, 0.5), (99.9, 0.2), (99.5, 1.0), (100.1, 1.0)])
    assert (found.count, round(found.first_ms), round(found.last_ms)) == (2, 100, 500)
    assert unanswered(kill, []).count == 0


def test_the_records_of_the_speed_part_have_210_bytes() -> None:
    line = encode({"to": "ada@example.org", "n": 1_000_000, "body": _SPEED_BODY}, 1790000000.1234567, None, None, "", None)
    assert len(line) == 210

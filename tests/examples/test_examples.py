"""Each example shows what its page says, as it is and broken: the changed line is taken from the page."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from lesson import EXAMPLES, LESSONS, Lesson, Played, fits, seen

PATTERNS = [
    "01_work_queue", "02_fan_out", "03_competing_consumers", "04_replay_from_a_time", "05_ordered_by_key", "06_ranked_readers",
    "07_dead_letters", "08_idempotent_receiver", "09_request_reply", "10_pipes_and_filters", "11_back_pressure",
    "12_poison_message", "13_custom_backend", "14_single_json_file", "15_handlers", "16_streams_and_handlers",
]  # fmt: skip
SECTIONS = ["Run it", "Break it", "What one must see", "Elsewhere"]
AT_ONCE = 5

every_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=repr)


@pytest.fixture(scope="module")
def plays(tmp_path_factory) -> Iterator[dict[str, Future[Played]]]:
    """All examples are under way at once: most of their time is spent waiting."""
    with ThreadPoolExecutor(AT_ONCE) as stage:
        yield {lesson.name: stage.submit(lesson.play, tmp_path_factory.mktemp(lesson.name)) for lesson in LESSONS}


def test_every_pattern_has_its_example() -> None:
    assert [lesson.name for lesson in LESSONS] == PATTERNS


@every_lesson
def test_a_program_is_one_screen(lesson: Lesson) -> None:
    assert len(lesson.code_lines) <= 25
    assert max(map(len, lesson.program.splitlines())) <= 128


@every_lesson
def test_a_page_has_a_picture_and_says_what_to_run_to_break_and_to_see(lesson: Lesson) -> None:
    assert re.findall(r"^## (.*)$", lesson.page, re.M) == SECTIONS
    assert re.search(r"```(mermaid)?\n", lesson.section("")), "a picture"
    assert f"uv run python examples/{lesson.name}/main.py" in lesson.section("Run it")
    assert lesson.broken_program != lesson.program
    for system in ("Enterprise Integration Patterns", "Kafka", "Redis", "RabbitMQ"):
        assert re.search(rf"^\| {system} +\| \S", lesson.section("Elsewhere"), re.M), f"its name in {system}"


@every_lesson
def test_it_shows_what_its_page_says(lesson: Lesson, plays: dict[str, Future[Played]]) -> None:
    done = plays[lesson.name].result().as_it_is
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    shown = lesson.shown("Run it")
    assert shown is None or fits(shown)(done.stdout), f"the page shows {shown}, and it printed {done.stdout}"
    lesson.check.as_it_is(done.stdout.splitlines())


@every_lesson
def test_broken_as_its_page_says_it_shows_why(lesson: Lesson, plays: dict[str, Future[Played]]) -> None:
    runs = plays[lesson.name].result().broken
    printed = "".join(map(seen, runs))
    shown = lesson.shown("What one must see")
    assert shown is None or fits(shown)(printed), f"the page shows {shown}, and it printed {printed}"
    lesson.check.broken(*(seen(done).splitlines() for done in runs))


def test_the_index_names_all_in_their_order() -> None:
    named = re.findall(r"\]\((\d\d_\w+)/README\.md\)", (EXAMPLES / "README.md").read_text())
    assert [name for name, _ in itertools.groupby(named)] == [lesson.name for lesson in LESSONS]

"""The main job, run whole: on a directory, on a file, on standard input."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from demo_program import FEW, ROOT, run

FILES, FUNCTIONS, CLASSES = 60, 120, 5


@dataclass(frozen=True)
class Run:
    """A run that has ended."""

    code: int
    output: str
    errors: str
    data: Path
    sources: Path

    @property
    def report(self) -> dict[str, Any]:
        """What it printed with `--json`."""
        return json.loads(self.output)


def source(number: int) -> str:
    """A module that takes some milliseconds to parse."""
    classes = "".join(f"class C{place}:\n    value = {number}\n" for place in range(CLASSES))
    return classes + "".join(f"def f{place}(a, b={place}):\n    return [a, b, {number}] * 3\n" for place in range(FUNCTIONS))


@pytest.fixture(scope="module")
def directory_run(tmp_path_factory) -> Run:
    """The first run, over a directory of sources; two of its processes are killed."""
    base = tmp_path_factory.mktemp("demo")
    sources, data = base / "sources", base / "data"
    (sources / "below").mkdir(parents=True)
    for number in range(FILES):
        (sources / ("below" if number % 2 else "") / f"m{number}.py").write_text(source(number))
    (sources / "broken.py").write_text("def f(:\n")
    (sources / "notes.txt").write_text("no source\n")
    done = run("--json", "--data", data, "--input", sources, *FEW)
    return Run(done.returncode, done.stdout, done.stderr, data, sources)


@pytest.fixture(scope="module")
def lines_run(directory_run: Run, tmp_path_factory) -> Run:
    """A second run with the data directory of the first, over the lines of a file; as a page."""
    lines = tmp_path_factory.mktemp("lines") / "words.txt"
    lines.write_text("".join(f"word {'more ' * (number % 7)}\n" for number in range(300)) + "the last, without an end")
    done = run("--data", directory_run.data, "--input", lines, "--no-kill", *FEW)
    return Run(done.returncode, done.stdout, done.stderr, directory_run.data, lines)


# --- a directory -----------------------------------------------------------------------------------------------------
def test_the_main_job_ends_well_and_its_totals_agree(directory_run: Run) -> None:
    """L9: a demonstration with several publishers and consumers, `python -m dq.main`."""
    report = directory_run.report
    assert directory_run.code == 0, directory_run.errors
    assert report["ok"]
    assert report["problems"] == []
    assert report["lost"] == 0
    assert report["sent"] == report["handled"] == FILES + 1
    assert {**report["totals"], "seconds": 0} == {**report["direct"], "seconds": 0}


def test_the_totals_are_those_of_a_count_by_hand(directory_run: Run) -> None:
    totals = directory_run.report["totals"]
    assert totals["tasks"] == FILES + 1
    assert totals["functions"] == FILES * FUNCTIONS
    assert totals["classes"] == FILES * CLASSES
    assert totals["lines"] == FILES * 2 * (FUNCTIONS + CLASSES) + 1
    assert totals["problems"] == 1  # broken.py
    paths = sorted(map(str, directory_run.sources.rglob("*.py")))
    digests = [f"{hashlib.sha256(Path(path).read_bytes()).hexdigest()} {path}\n" for path in paths]
    assert totals["sha256"] == hashlib.sha256("".join(digests).encode()).hexdigest()


def test_it_prints_one_json_object_and_nothing_else(directory_run: Run) -> None:
    assert directory_run.output.count("\n") == 1
    assert directory_run.output.startswith("{")
    assert directory_run.errors == ""


def test_a_consumer_that_held_a_file_was_killed_and_another_had_it(directory_run: Run) -> None:
    report = directory_run.report
    kill = next(kill for kill in report["kills"] if kill["who"] == "consumer")
    assert kill["in_hand"] >= 1
    assert report["redelivered"] >= 1
    assert kill["by"] != kill["number"]
    assert kill["new_pid"] != kill["pid"]
    assert 0 < kill["received_ms"] <= kill["begun_ms"]
    assert kill["name"].endswith(".py")
    assert not alive(kill["pid"])


def test_the_publisher_broker_was_killed_and_replaced(directory_run: Run) -> None:
    kill = next(kill for kill in directory_run.report["kills"] if kill["who"] == "PublisherBroker")
    assert kill["new_pid"] != kill["pid"]
    assert 0 < kill["ready_ms"] < 30_000
    assert kill["in_hand"] >= 0
    assert not alive(kill["pid"])
    assert not alive(kill["new_pid"])


def test_latencies_and_speed_are_measured(directory_run: Run) -> None:
    report = directory_run.report
    assert report["latency_ms"]["publish_to_receipt"]["count"] == FILES + 1
    assert report["latency_ms"]["publish_to_handler"]["count"] == FILES + 1
    for figures in report["latency_ms"].values():
        assert 0 < figures["p50"] <= figures["p99"]
    assert report["speed"]["records"] > 0
    assert report["speed"]["records_a_second"] > 0


# --- the lines of a file, in the same place --------------------------------------------------------------------------
def test_the_lines_of_a_file_are_tasks_and_their_words_are_counted(lines_run: Run) -> None:
    words = f"{len(lines_run.sources.read_text().split()):,}"
    assert lines_run.code == 0, lines_run.errors
    figures = [line.split() for line in lines_run.output.splitlines()]
    assert ["lines", "301", "301", "agree"] in figures
    assert ["words", words, words, "agree"] in figures
    assert "All agree, and nothing is lost." in lines_run.output


def test_the_page_fits_80_columns_and_is_plain_text_without_a_terminal(lines_run: Run) -> None:
    page = lines_run.output[lines_run.output.index("301 lines of") :]
    commands = ("    jq ", "301 lines of ", "  the log is in ")  # these have paths in them, and are left whole to be copied
    for line in page.splitlines():
        assert len(line.rstrip()) <= 80 or line.startswith(commands), line
    assert "\x1b" not in lines_run.output
    assert "Killed with" not in page


def test_progress_is_told_by_the_line_without_a_terminal(lines_run: Run) -> None:
    assert "published" in lines_run.output
    assert lines_run.errors == ""


def test_a_second_run_empties_what_the_first_left(lines_run: Run) -> None:
    records = [json.loads(line) for line in results_in(lines_run.data)]
    payloads = [record["payload"] for record in records if "payload" in record]
    assert len(payloads) == 301
    assert all("line" in payload for payload in payloads)


def test_the_jq_line_of_the_page_works(lines_run: Run) -> None:
    if shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    command = next(line for line in lines_run.output.splitlines() if line.startswith("    jq "))
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=ROOT, check=True)
    assert {json.loads(line)["line"] for line in done.stdout.splitlines()} == set(range(1, 302))


# --- standard input --------------------------------------------------------------------------------------------------
def test_lines_come_from_standard_input_too(directory_run: Run, lines_run: Run) -> None:
    done = run("--json", "--no-kill", "--data", lines_run.data, "--input", "-", *FEW, stdin="one two\n\nthree ä ö\n")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["totals"]["tasks"] == 3
    assert report["totals"]["words"] == report["direct"]["words"] == 5
    assert report["kills"] == []


def results_in(data: Path) -> list[str]:
    """The lines of the stream of results."""
    return [line for path in sorted((data / "streams/results/0").glob("*.jsonl")) for line in path.read_text().splitlines()]


def alive(pid: int) -> bool:
    """Whether there is such a process that is not a zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False

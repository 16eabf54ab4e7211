"""The tests are tested: each mutant of `mutants.py` must be noticed by the tests that it names.

`pytest tests/mutants --mutants` breaks a copy of dq in each way and runs those tests on it. Without the option it is only
seen that every mutant can still be made.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mutants import MUTANTS, SOURCE, Mutant
from stage import announce

ROOT = SOURCE.parent
EACH = pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)


@EACH
def test_a_mutant_can_be_made(mutant: Mutant) -> None:
    broken = mutant.apply()
    assert broken != (SOURCE / "dq" / mutant.file).read_text()
    ast.parse(broken)
    for test in mutant.tests:
        assert (ROOT / test).exists()


def outcome(source: Path, tests: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.mutants
@pytest.mark.timeout(900)
def test_unbroken_dq_passes_what_its_mutants_fail() -> None:
    done = outcome(SOURCE, tuple(sorted({test for mutant in MUTANTS for test in mutant.tests})))
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.mutants
@pytest.mark.timeout(600)
@EACH
def test_a_mutant_is_noticed(mutant: Mutant, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(SOURCE, tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "src" / "dq" / mutant.file).write_text(mutant.apply())
    done = outcome(tmp_path / "src", mutant.tests)
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert done.returncode == 1, f"nobody noticed: {mutant.name}\n{done.stdout[-2000:]}{done.stderr[-1000:]}"
    assert failed
    announce(capsys, f"\n{mutant.name}: noticed by {failed[0].split(' - ')[0].removeprefix('FAILED ')}\n")

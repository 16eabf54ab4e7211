"""What must be seen of pipes and filters."""

from collections import Counter


def as_it_is(lines: list[str]) -> None:
    assert lines == ["TEA", "SCONES", "JAM"]


def broken(lines: list[str]) -> None:
    assert Counter(lines) == {"TEA": 4, "SCONES": 4, "JAM": 4}, "twice a step, and none is lost"

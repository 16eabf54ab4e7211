"""What must be seen of a replay."""

ARCHIVED = [f"archived: {price}" for price in (10, 11, 12, 14, 13)]


def as_it_is(lines: list[str]) -> None:
    assert lines[:2] == ["min of [12, 14, 13] since noon: 12", "max of [12, 14, 13] since noon: 14"]
    assert lines[2:] == ARCHIVED, "readers take nothing away from a sink"


def broken(lines: list[str]) -> None:
    assert lines[:2] == ["min of [12, 14, 13] since noon: 12", "max of [] since noon: None"], "a sink does not go back"
    assert lines[2:] == ARCHIVED, "nor does one sink take anything away from another"

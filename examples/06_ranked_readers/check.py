"""What must be seen of ranked readers."""


def as_it_is(lines: list[str]) -> None:
    assert lines[-1] == "1000 of 1000 clicks were read, each of them 1 times"


def broken(lines: list[str]) -> None:
    assert lines[-1] == "560 of 1000 clicks were read, each of them 2 times", "half twice, half never"

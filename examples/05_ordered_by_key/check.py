"""What must be seen of order by key."""


def steps_of(customer: str, lines: list[str]) -> list[str]:
    return [line.split(": ")[1] for line in lines if line.startswith(customer)]


def as_it_is(lines: list[str]) -> None:
    assert steps_of("ada", lines) == ["placed", "the bank does not answer", "paid", "shipped"]
    assert steps_of("eve", lines) == ["placed", "paid", "shipped"]
    assert lines.index("eve: shipped") < lines.index("ada: paid"), "who is in another bucket does not wait"


def broken(lines: list[str]) -> None:
    assert steps_of("ada", lines) == ["placed", "the bank does not answer", "shipped", "paid"]
    assert steps_of("eve", lines) == ["placed", "paid", "shipped"]

"""What must be seen of an idempotent receiver."""


def as_it_is(lines: list[str]) -> None:
    assert lines == ["balance: 100"]


def broken(lines: list[str]) -> None:
    assert lines == ["balance: 130"], "what was delivered twice was booked twice"

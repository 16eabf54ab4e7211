"""What must be seen of several handlers over several streams."""


def as_it_is(lines: list[str]) -> None:
    assert sorted(lines) == ["packed ['book', 'pen'] cash 16", "shipped book", "shipped pen"]


def broken(lines: list[str]) -> None:
    assert sorted(lines) == ["packed ['book', 'pen'] cash 23", "shipped book", "shipped pen"], "the refund is in nobody's books"

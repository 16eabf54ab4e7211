"""What must be seen of handlers."""

PUBLISHED = "published emails/0/0 emails/0/1 emails/0/2"
FIRST = ["attempt 1 to ada@example.org", "attempt 1 to nobody", "attempt 1 to grace@example.org"]


def as_it_is(lines: list[str]) -> None:
    assert lines == [PUBLISHED, *FIRST, "attempt 2 to nobody", "attempt 3 to nobody"]


def broken(lines: list[str]) -> None:
    assert lines == [PUBLISHED, *FIRST], "what cannot be done is not tried again"

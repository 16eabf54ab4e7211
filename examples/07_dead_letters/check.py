"""What must be seen of dead letters."""

SENT = ["mail to ada@example.org", "mail to grace@example.org"]


def as_it_is(lines: list[str]) -> None:
    assert lines == [*SENT, "put aside: nobody after 1 attempts: no address"]


def broken(lines: list[str]) -> None:
    assert lines == [*SENT, "put aside: nobody after 3 attempts: max_attempts"], "nothing is tried for ever"

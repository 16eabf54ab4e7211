"""What must be seen of request-reply."""


def answers(lines: list[str]) -> dict[int, int]:
    return {int(line.split()[3]): int(line.split()[-1]) for line in lines}


def as_it_is(lines: list[str]) -> None:
    assert answers(lines) == {2: 4, 3: 9, 5: 25}


def broken(lines: list[str]) -> None:
    assert answers(lines) == {2: 9, 3: 25, 5: 4}, "answers came in another order than the questions"

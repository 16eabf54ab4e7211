"""What must be seen of back-pressure."""


def delivered(lines: list[str]) -> dict[str, int]:
    return {line.split()[1]: int(line.split()[-1]) for line in lines}


def as_it_is(lines: list[str]) -> None:
    assert sum(delivered(lines).values()) == 24
    assert delivered(lines)["fast"] > delivered(lines)["slow"]


def broken(lines: list[str]) -> None:
    assert delivered(lines) == {"slow": 24, "fast": 0}, "what is in a hand is nobody else's"

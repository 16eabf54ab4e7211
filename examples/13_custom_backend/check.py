"""What must be seen of a custom backend."""


def as_it_is(lines: list[str]) -> None:
    assert lines[:2] == ["seen: Metropolis", "seen: Nosferatu"]
    assert lines[2:] == ["kept in: streams/films/0/00000000000000000000.jsonl"]


def broken(lines: list[str]) -> None:
    assert "is defined in __main__" in lines[-1], "what the brokers cannot import they cannot use"

"""What must be seen of competing consumers."""


def photos(lines: list[str]) -> list[int]:
    return sorted(int(line.split()[-1]) for line in lines if "resized" in line)


def workers(lines: list[str]) -> set[str]:
    return {line.split(",")[0] for line in lines if "resized" in line}


def as_it_is(lines: list[str]) -> None:
    assert photos(lines) == list(range(24)), "each photo once"
    assert len(workers(lines)) > 1
    assert lines[-1] == "24 of 24 photos are settled"


def broken(lines: list[str]) -> None:
    assert photos(lines) == list(range(24)), "each photo once, also the one that was in the hand of the dead"
    assert "ada" not in workers(lines)
    assert lines[-1] == "24 of 24 photos are settled"

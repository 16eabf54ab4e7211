"""What must be seen of fan-out."""

ORDERS = ["tea", "scones", "jam"]


def as_it_is(lines: list[str]) -> None:
    for sink in ("kitchen", "till"):
        assert [line.split()[-1] for line in lines if sink in line] == ORDERS


def broken(lines: list[str]) -> None:
    assert lines == [f"the kitchen has {order}" for order in ORDERS], "one sink is one cursor, whoever asks for it"

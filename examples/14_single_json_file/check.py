"""What must be seen of the single JSON file."""

RECEIPTS = ["10000", "20000", "30000"]


def as_it_is(lines: list[str]) -> None:
    assert [line.split()[0] for line in lines[:3]] == RECEIPTS
    assert lines[-1] == "31000 records can be read", "as long as nobody dies, all is well"


def broken(lines: list[str]) -> None:
    assert [line.split()[0] for line in lines[:3]] == RECEIPTS
    assert lines[-1].endswith("all that it had is lost"), "and the receipts were worth nothing"

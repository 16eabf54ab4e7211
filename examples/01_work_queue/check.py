"""What must be seen of a work queue."""

AFTERWARDS = True  # the line is put back, and it is run again


def as_it_is(lines: list[str]) -> None:
    assert [line.split()[3] for line in lines if " mails " in line] == ["emails/0/0", "emails/0/1", "emails/0/2"]


def broken(killed: list[str], again: list[str]) -> None:
    assert not [line for line in killed if " mails " in line]
    sent = [line.split()[3] for line in again if " mails " in line]
    assert sent == [f"emails/0/{offset}" for offset in range(6)], "each mail once, also those of the run that was killed"

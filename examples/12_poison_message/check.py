"""What must be seen of a poison message."""


def as_it_is(lines: list[str]) -> None:
    assert lines.count("a worker died") == 3, "the first time in company, then twice alone"
    assert [line for line in lines if "showed" in line] == ["showed beach", "showed forest", "showed city"]
    assert lines[-1] == "put aside: poison because of consumer_died"


def broken(lines: list[str]) -> None:
    assert lines.count("a worker died") == 5
    assert lines[-1] == "put aside: poison because of consumer_died"

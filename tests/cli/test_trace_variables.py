"""A trace that comes in the environment goes along with what is published, and on to the programs that work on it."""

from __future__ import annotations

import pytest

from dq.cli.trace_variables import headers_of, variables_of

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEPARENT", PARENT)
    monkeypatch.setenv("TRACESTATE", "vendor=1")


def test_a_trace_goes_through_publish_and_exec(dq, here, name, tmp_path, monkeypatch, traced) -> None:
    assert dq("publish", name, "1").code == 0
    assert dq("publish", name, "-", lines=b"2\n").code == 0
    assert dq("publish", name, "3", "-H", "traceparent:own").code == 0
    monkeypatch.setenv("TRACEPARENT", PARENT.replace("b7", "b8"))  # of who consumes
    file = tmp_path / "seen"
    program = f'echo "$DQ_ID $TRACEPARENT $TRACESTATE." >> {file}'
    assert dq("consume", name, "--sink", name, "--exec", program, "--count", 3).code == 0
    assert file.read_text().splitlines() == [
        f"{name}/0/0 {PARENT} vendor=1.", f"{name}/0/1 {PARENT} vendor=1.", f"{name}/0/2  ."
    ]  # fmt: skip


def test_what_is_no_context_goes_nowhere() -> None:
    for parent in ("", "00-xyz", PARENT + "\x00", PARENT + "-\x1b[31m", PARENT[:-1]):
        assert headers_of({"TRACEPARENT": parent, "TRACESTATE": "a=1"}) == {}
        assert set(variables_of({"traceparent": parent, "baggage": "a=1"}).values()) == {""}
    assert headers_of({"TRACEPARENT": PARENT, "TRACESTATE": "a\nb", "BAGGAGE": "k=v"}) == {
        "traceparent": PARENT,
        "baggage": "k=v",
    }
    assert headers_of({"TRACEPARENT": PARENT + "-more"}) == {"traceparent": PARENT + "-more"}

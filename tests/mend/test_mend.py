"""`verify`, `repair` and `salvage`: on directories that a broker wrote and something else spoiled."""

from __future__ import annotations

import base64
import shutil
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pytest
from log_rig import Rig, record

from dq import BrokerManager, Consumer, Publisher, verify
from dq.cli.commands import run
from dq.errors import BrokerRunning, Damaged, InvalidSetting
from dq.log.storage import Batch
from dq.mend.repair import accept_loss, truncate
from dq.mend.salvage import salvage
from dq.mend.target import target_of
from stage import drain, settled, sink_of, until

RECORDS, SETTLED = 300, 250


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 records in several segments of two streams, 250 of the first settled by a sink; stopped cleanly."""
    root = tmp_path_factory.mktemp("written") / "queue_data"
    with BrokerManager(root) as broker:
        broker.stream("orders", segment_bytes=4096)
        with Publisher(broker, "orders", batch_size=10) as orders, Publisher(broker, "other") as other:
            orders.publish_many({"n": n} for n in range(RECORDS))
            other.publish({"n": 0})
        with Consumer(broker, "orders", sink="billing", prefetch=SETTLED) as consumer:
            for task, _ in zip(consumer, range(SETTLED), strict=False):
                task.ack()
        until(lambda: settled(broker, "billing", SETTLED))
    return root


@pytest.fixture
def root(written: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "queue_data"
    shutil.copytree(written, copy)
    return copy


def segments(root: Path, log: str = "streams/orders/0") -> list[Path]:
    return sorted((root / log).glob("*.jsonl"))


def batch_ends(segment: Path) -> list[int]:
    """The bytes at which a batch ends, from the segment's header on."""
    ends, position = [], 0
    for line in segment.read_bytes().splitlines(keepends=True):
        if line.startswith(b'{"batch"'):
            ends.append(position)
        position += len(line)
    return [*ends, position]


def state_of(root: Path, log: str) -> Any:
    return {check.log: check for check in verify(root).logs}[log]


def everything(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file() and path.suffix != ".pid"}


# --- verify ----------------------------------------------------------------------------------------------------------


def test_a_whole_directory_is_whole_and_not_touched(root: Path) -> None:
    before = everything(root)
    found = verify(root)
    assert [(check.log, check.state) for check in found.logs] == [
        ("streams/orders/0", "whole"),
        ("streams/other/0", "whole"),
        ("sinks/billing", "whole"),
    ]
    orders = found.logs[0]
    assert (orders.records, orders.segments) == (RECORDS, len(segments(root)))
    assert orders.bytes == sum(path.stat().st_size for path in segments(root))
    assert (found.faults, found.running) == ([], False)
    assert everything(root) == before


def test_a_torn_end_is_said_and_left_for_the_next_start(root: Path) -> None:
    last = segments(root)[-1]
    last.write_bytes(last.read_bytes()[:-7])
    before = everything(root)
    check = state_of(root, "streams/orders/0")
    assert (check.state, check.torn_bytes) == ("torn", batch_ends(last)[-1] - batch_ends(last)[-2])
    assert not verify(root).faults or "sinks/billing" in {fault.log for fault in verify(root).faults}
    assert everything(root) == before


def test_damage_is_named_with_its_place_and_both_mends(root: Path) -> None:
    first = segments(root)[0]
    place = batch_ends(first)[1]
    spoil(first, place + 5)
    check = state_of(root, "streams/orders/0")
    assert check.state == "damaged"
    for part in (f"{first}, byte {place}", f"repair {first} --truncate-at {place}", "--salvage OUT.jsonl"):
        assert part in check.why
    assert state_of(root, "streams/other/0").state == "whole"


def test_a_sink_that_is_ahead_of_its_stream_is_seen(root: Path) -> None:
    """R9, bad input 10: batches that were removed cleanly from the end of a log."""
    for path in segments(root)[1:]:
        path.unlink()
    check = state_of(root, "sinks/billing")
    assert check.state == "damaged"
    assert "its log lost its end" in check.why


@pytest.mark.parametrize(
    ("path", "content", "state"),
    [
        ("streams/orders/stream.json", b"{}", "damaged"),
        ("streams/orders/stream.json", b'{"format":9}\n', "newer"),
        ("sinks/billing/sink.json", b"[]", "damaged"),
    ],
)
def test_a_settings_file_that_is_spoiled_is_seen(root: Path, path: str, content: bytes, state: str) -> None:
    (root / path).write_bytes(content)
    assert state_of(root, str(Path(path).parent)).state == state


def test_under_a_running_broker_it_can_be_asked_too(root: Path) -> None:
    with BrokerManager(root) as broker, Publisher(broker, "orders") as orders:
        orders.publish({"n": RECORDS})
        found = verify(root)
        assert (found.running, found.faults) == (True, [])
        with pytest.raises(BrokerRunning, match="stop it first"):
            truncate(segments(root)[0], 0)


# --- repair ----------------------------------------------------------------------------------------------------------


def spoil(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_a_damaged_log_is_ended_where_it_is_damaged_and_goes_on_from_there(root: Path) -> None:
    path = segments(root)[0]
    place = batch_ends(path)[3]
    whole = b"".join(segment.read_bytes() for segment in segments(root))
    spoil(path, place + 30)
    spoilt = b"".join(segment.read_bytes() for segment in segments(root))
    (root / "streams" / "clean.json").unlink()  # what a start that follows a clean stop reads is only this
    with BrokerManager(root) as broker, pytest.raises(Damaged, match=f"--truncate-at {place}"):
        Publisher(broker, "orders")
    # Only said
    before = everything(root)
    said = truncate(path, place, dry_run=True)
    assert (said.dry_run, said.ends, said.cut_bytes) == (True, [30], len(whole) - place)
    assert everything(root) == before
    # Done
    done = truncate(path, place)
    assert done.cut_bytes == said.cut_bytes
    kept = sorted(done.kept, key=lambda name: int(Path(name).name.split(".")[2]))
    assert path.read_bytes() + b"".join(Path(name).read_bytes() for name in kept) == spoilt
    # Once more changes nothing
    before = everything(root)
    assert truncate(path, place).cut_bytes == 0
    assert everything(root) == before
    # It is written down
    [line] = (root / "quarantine" / "repairs.jsonl").read_bytes().splitlines()
    assert orjson.loads(line)["log"] == "streams/orders/0"
    # And the sink, which had settled 250 records, goes back to the 30 that are left and gets what comes next
    with BrokerManager(root) as broker:
        with Publisher(broker, "orders") as orders:
            assert orders.publish({"n": "next"}).id == "orders/0/30"
        assert [task.payload["n"] for task in drain(broker, "orders", sink="billing")] == ["next"]
        stats = broker.stats()["consumer_broker"]["sinks"]["billing"]
        assert stats["damaged"] == {}
        assert SETTLED - 30 <= stats["cut_back"] <= RECORDS - 30
    assert not verify(root).faults


def test_a_cut_in_the_middle_of_a_batch_is_refused_with_the_nearest_end(root: Path) -> None:
    path = segments(root)[0]
    ends = batch_ends(path)
    before = everything(root)
    with pytest.raises(InvalidSetting, match=f"byte {ends[2] + 9} is not the end of a whole batch; .* byte {ends[2]}$"):
        truncate(path, ends[2] + 9)
    with pytest.raises(InvalidSetting, match="is not the end of a whole batch"):
        truncate(path, 1 << 40)
    assert everything(root) == before


def test_a_whole_segment_can_be_given_up(root: Path) -> None:
    first, second, *_ = segments(root)
    second.write_bytes(b"nonsense\n" + second.read_bytes())
    assert truncate(second, 0).ends == [int(second.stem)]
    assert segments(root) == [first]
    assert state_of(root, "streams/orders/0").state == "whole"


def test_a_loss_is_accepted_by_a_word_and_not_before(root: Path) -> None:
    """R9: refused until a person accepts it; then the sink goes on at the end."""
    for path in segments(root)[1:]:
        path.unlink()
    left = int(orjson.loads(segments(root)[0].read_bytes().splitlines()[-1])["payload"]["n"]) + 1
    assert left < SETTLED
    with BrokerManager(root) as broker:
        with Publisher(broker, "orders") as orders:
            orders.publish_many({"n": f"new {n}"} for n in range(RECORDS))
        with pytest.raises(Damaged, match="--accept-loss"):
            Consumer(broker, "orders", sink="billing")
        assert "--accept-loss" in broker.stats()["consumer_broker"]["sinks"]["billing"]["damaged"]["orders/0"]
    accept_loss(root / "streams" / "orders", dry_run=True)
    assert state_of(root, "sinks/billing").state == "damaged"
    accept_loss(root / "streams" / "orders")
    assert state_of(root, "sinks/billing").state == "whole"
    with BrokerManager(root) as broker:
        tasks = drain(broker, "orders", sink="billing")
        assert [task.payload["n"] for task in tasks] == [f"new {n}" for n in range(RECORDS)]
        assert broker.stats()["consumer_broker"]["sinks"]["billing"]["cut_back"] >= SETTLED - left


def test_a_sinks_log_can_be_cut_too_and_that_costs_redeliveries(root: Path) -> None:
    [path] = segments(root, "sinks/billing")
    place = batch_ends(path)[1]
    spoil(path, place + 40)
    assert state_of(root, "sinks/billing").state == "damaged"
    truncate(path, place)
    assert state_of(root, "sinks/billing").state == "whole"
    with BrokerManager(root) as broker, Consumer(broker, "orders", sink="billing", idle_timeout=20) as consumer:
        tasks = list(islice(consumer, RECORDS))
        assert sorted(task.payload["n"] for task in tasks) == list(range(RECORDS))
        assert sink_of(broker, "billing")["shards"]["orders/0"]["waiting"] == 0


# --- salvage ---------------------------------------------------------------------------------------------------------


def saved_of(path: Path) -> tuple[Any, list[Any]]:
    out = BytesIO()
    saved = salvage(path, out)
    return saved, [orjson.loads(line) for line in out.getvalue().splitlines()]


def test_all_of_a_whole_log_is_saved(root: Path) -> None:
    saved, lines = saved_of(root / "streams" / "orders" / "0")
    assert (saved.verified, saved.unverified, saved.unreadable_bytes) == (RECORDS, 0, 0)
    assert [line["id"] for line in lines] == [f"orders/0/{n}" for n in range(RECORDS)]
    assert [line["record"]["payload"]["n"] for line in lines] == list(range(RECORDS))


def test_what_lies_around_damage_is_saved_and_says_that_nobody_vouches_for_it(root: Path) -> None:
    path = segments(root)[0]
    ends = batch_ends(path)
    spoil(path, ends[1] + 20)  # a header
    content = path.read_bytes()
    path.write_bytes(content[: ends[4]] + b"\0\xff rubbish\n" + content[ends[4] :])
    saved, lines = saved_of(root / "streams" / "orders" / "0")
    assert (saved.verified, saved.unverified) == (RECORDS - 10, 10)
    assert saved.unreadable_bytes >= 10
    assert sorted(line["record"]["payload"]["n"] for line in lines) == list(range(RECORDS))
    loose = [line for line in lines if not line["verified"]]
    assert [line["record"]["payload"]["n"] for line in loose] == list(range(10, 20))
    assert all(content[line["byte"] :].startswith(b'{"at"') for line in loose)


def test_records_that_are_not_json_are_saved_as_they_are(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    log = rig.open()
    log.append(Batch("ada", 0, 2, b"not json\n" + record(1)))
    log.commit()
    saved, lines = saved_of(rig.directory)
    assert (saved.verified, base64.b64decode(lines[0]["base64"]), lines[1]["record"]["payload"]["n"]) == (2, b"not json", 1)


# --- words -----------------------------------------------------------------------------------------------------------


def test_a_path_that_is_no_log_is_refused_in_words(root: Path) -> None:
    for path in (root, root / "streams", root / "streams/orders/7", root / "dq.json", root / "streams/orders/0/x.jsonl"):
        with pytest.raises(InvalidSetting, match="is no log"):
            target_of(path)
    with pytest.raises(InvalidSetting, match="is a sink"):
        accept_loss(root / "sinks" / "billing")
    with pytest.raises(InvalidSetting, match="is not a segment"):
        truncate(root / "streams" / "orders" / "0", 0)


def test_the_commands_say_it_and_their_exit_codes_too(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(root)]) == 0
    assert "3 logs, 0 with faults" in capsys.readouterr().out
    path = segments(root)[0]
    place = batch_ends(path)[2]
    spoil(path, place + 30)
    assert run(["verify", str(root), "--json"]) == 65
    assert orjson.loads(capsys.readouterr().out)["ok"] is False
    out = root.parent / "saved.jsonl"
    assert run(["repair", str(root / "streams/orders/0"), "--salvage", str(out)]) == 0
    assert out.read_bytes().count(b"\n") == RECORDS
    assert run(["repair", str(root / "streams/orders/0"), "--salvage", str(out)]) == 1, "a file was written over"
    assert run(["repair", str(path), "--truncate-at", str(place + 1)]) == 2
    assert run(["repair", str(path), "--truncate-at", str(place), "--dry-run"]) == 0
    assert "would be moved to quarantine" in capsys.readouterr().out
    assert run(["repair", str(path), "--truncate-at", str(place)]) == 0
    assert "ends at offset 20" in capsys.readouterr().out
    assert run(["verify", str(root)]) == 0
    assert run(["repair", str(path)]) == 2

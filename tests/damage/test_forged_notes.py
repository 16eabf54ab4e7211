"""Bad input 15, 16, 20, 24: notes of a sink under right checksums that no sink wrote. Damage, or a sink that still works."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from random import Random

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nonsense import JSON, VALUES, with_field, with_fields
from sim_files import MemoryFiles

from dq.core.replay import _KINDS
from dq.core.sink import SinkCore
from dq.errors import Damaged, LogError
from dq.log.sink_log import SinkLog
from dq.model.settings import SinkSettings

EMAILS = ("emails", 0)


def new_core() -> SinkCore:
    return SinkCore("mailers", SinkSettings(), jitter=Random(1))


def lived() -> SinkCore:
    """A sink in which everything has happened: records are leased, settled out of order, delayed, dying, suspect, alone in a
    hand, overdue and lost, and leases have ended."""
    core, now = new_core(), 1_000.0
    core.add_shard(EMAILS, 0, "uuid-1", 1)
    core.add_shard(("orders", 1), 0, "uuid-2", 1)
    core.committed(EMAILS, 40)
    core.committed(("orders", 1), 10)
    core.trimmed(("orders", 1), 2)
    core.join("a", now, pid=4711)
    core.grant("a", 12)
    take_all(core, now)
    core.ack("a", 0, [(0, 2), (3, 4)], now)
    core.drop("a", 0, [(4, 5)], now)
    core.retry("a", 0, 5, 50.0, "boom", now)
    core.abandon("a", 0, 6, now)
    core.release("a", 0, [(7, 8)], now)
    core.extend("a", 0, 11, 60.0, now)
    core.dead_letter("a", 0, 8, "bad", "", now)
    core.dead_letter("a", 0, 9, "worse", "boom", now)
    core.dead_letter_stored("emails", 0)
    core.expire(now + 15)
    core.renew("a", [0], now + 15)
    core.expire(now + 21)  # the record that was left is overdue
    for number, (consumer, credit) in enumerate([("b", 6), ("c", 1), ("d", 4), ("e", 1), ("f", 2)]):
        core.join(consumer, now + 22)
        core.grant(consumer, credit)
        take_all(core, now + 22)
        if number < 4:
            core.died(consumer, now + 22)  # with many in hand, then with one alone, with many, with one
        if number == 1:
            core.abandon("a", 0, 10, now + 22)
    core.join("g", now + 22)
    core.grant("g", 4)
    take_all(core, now + 22)
    core.join("h", now + 22)
    core.grant("h", 3)
    take_all(core, now + 22)
    core.died("h", now + 22)
    core.join("i", now + 22)
    core.grant("i", 1)
    take_all(core, now + 22)
    return core


def take_all(core: SinkCore, now: float) -> None:
    while (offer := core.offer()) is not None:
        core.lease(offer, offer.count_max, 100, now)


def taken_notes() -> list[bytes]:
    """The notes of that life, up to a start, a later epoch and a cut, and of a stream that comes and goes."""
    core = lived()
    notes = core.take_notes()
    news: dict[str, object] = {"stream": "news", "bucket": 0}
    later: list[dict[str, object]] = [
        {"start": 1048600},
        {"epoch": 2, "stream": "orders", "bucket": 1},
        {"cut": 3, "stream": "emails", "bucket": 0},
        {"cursor": 0, **news, "uuid": "uuid-3", "epoch": 1},
        {"deliver": 1048600, **news, "first": 0, "count": 3, "to": "a", "without": [[1, 2]]},
        {"skip": [[3, 4]], **news},
        {"remove": [[4, 6]], **news},
        {"expire": [[6, 7]], **news},
        {"expired": 1048600, **news, "ranges": [[6, 7]]},
        {"trim": 9, **news, "removed": 1},
        {"forget": "news"},
        {"paused": True},
        {"paused": False},
    ]
    return [*notes, *(orjson.dumps(note, option=orjson.OPT_APPEND_NEWLINE) for note in later)]


LIFE = taken_notes()
SNAPSHOT = lived().snapshot()
KINDS = {next(iter(orjson.loads(line))): line for line in [*LIFE, *SNAPSHOT]}


def check(lines: list[bytes]) -> str:
    """Replays notes as a start does. What is not damage is a sink that can go on, and whose snapshot says the same again."""
    core = new_core()
    try:
        for line in lines:
            core.replay(orjson.loads(line))
    except Damaged as error:
        message = str(error)
        assert len(message) < 1_500
        return "damaged"
    core.recover(2_000.0)
    assert all(0 <= figures.floor < 2**64 for figures in core.stats().shards.values())
    snapshot = core.snapshot()
    again = new_core()
    for line in snapshot:
        again.replay(orjson.loads(line))
    assert again.snapshot() == snapshot
    live_on(core)
    return "replayed"


def live_on(core: SinkCore) -> None:
    """The sink serves: leases come back, are taken by another consumer, settled, lost, and what is late is refused."""
    now = 3_000.0
    core.expire(now)
    for shard, floor in core.floors().items():
        core.committed(shard, floor + 5)
    core.join("new", now)
    core.grant("new", 20)
    leases = []
    while (offer := core.offer()) is not None and len(leases) < 50:
        leases.append((core.lease(offer, 1, 10, now), offer.first))
    for lease, first in leases[::2]:
        core.ack("new", lease, [(first, first + 1)], now)
    core.died("new", now)
    for letter in core.dead_letters():
        core.dead_letter_stored(letter.stream, letter.intent)
    core.expire(now + 1_000_000.0)
    core.take_notes()


def test_every_kind_of_note_is_here() -> None:
    """What is forged below was written by a sink before; new kinds of notes are to be written by `lived` too."""
    assert set(KINDS) == set(_KINDS)
    assert check(LIFE) == check(SNAPSHOT) == "replayed"


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_note_with_nonsense_is_damage_or_does_no_harm(kind: str) -> None:
    """Bad input 16, 20: any key of any note with any value."""
    outcomes = Counter()
    for life in (LIFE, SNAPSHOT):
        if KINDS[kind] in life:
            at, fields = life.index(KINDS[kind]), orjson.loads(KINDS[kind])
            for key, (name, value) in itertools.product(fields, VALUES.items()):
                line = with_field(fields, key, value) + b"}"
                if readable(line):
                    outcome = check([*life[:at], line, *life[at + 1 :]])
                    outcomes[outcome] += 1
                    deep = "lists" in name or "objects" in name
                    # Counters of a later version have other names; whatever they hold is skipped.
                    unread = (kind, key) in UNREAD or (key == "counters" and "objects" in name)
                    assert outcome == "damaged" or not deep or unread, (kind, key, name)
    assert outcomes["damaged"] > outcomes["replayed"]


UNREAD = {("retry", "attempts"), ("overdue", "attempts"), ("lost", "attempts"), ("ended", "bytes"), ("snapshot", "snapshot")}
"""Keys of a note that say what is known without them."""


def readable(line: bytes) -> bool:
    """Whether it gets past the reading of the log."""
    try:
        return orjson.loads(line) is not None
    except orjson.JSONDecodeError:
        return False


@pytest.mark.parametrize("note", [b"5", b'"ack"', b"[]", b"[1]", b"null", b"true", b"1.5", b'["ack",1]'], ids=repr)
def test_a_note_that_is_no_object_is_damage(note: bytes) -> None:
    """Bad input 15, 16: a line that is JSON and no note."""
    assert check([*LIFE, note]) == "damaged"


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_note_without_one_of_its_keys_is_damage_or_does_no_harm(kind: str) -> None:
    """Bad input 16: missing fields."""
    for life in (LIFE, SNAPSHOT):
        if KINDS[kind] in life:
            at, fields = life.index(KINDS[kind]), orjson.loads(KINDS[kind])
            outcomes = {
                key: check([*life[:at], with_field(fields, key, b"") + b"}", *life[at + 1 :]]) for key in list(fields)[1:]
            }
            optional = {"alone", "deadly", "stray", "next", "without", "removed", "paused"} | {
                key for unread, key in UNREAD if unread == kind
            }
            assert all(outcome == "damaged" for key, outcome in outcomes.items() if key not in optional), outcomes


@pytest.mark.parametrize("unknown", [b"{}", b'{"colour":1}', b'{"colour":[[[]]],"stream":"emails"}'], ids=repr)
def test_an_unknown_kind_of_note_is_skipped_and_counted(unknown: bytes) -> None:
    """Bad input 17: a later version's note that an older one may skip."""
    core = new_core()
    for line in [*LIFE, unknown]:
        core.replay(orjson.loads(line))
    assert core.stats().notes_unknown == 1
    assert check([*LIFE, unknown]) == "replayed"


# --- 24 ----------------------------------------------------------------------------------------------------------------
def test_an_ack_of_what_was_never_given_out_settles_nothing() -> None:
    """Bad input 24: in the sink's log, of a future offset, of a lease that never was, or of both."""
    for lease in (0, 7_777):
        for ranges in ([[39, 40]], [[1_000, 2_000]], [[2**62 - 1, 2**62]]):
            note = {"ack": lease, "stream": "emails", "bucket": 0, "ranges": ranges}
            core = new_core()
            for line in [*LIFE, orjson.dumps(note)]:
                core.replay(orjson.loads(line))
            plain = new_core()
            for line in LIFE:
                plain.replay(orjson.loads(line))
            assert core.snapshot() == plain.snapshot()


def test_a_note_of_a_shard_that_was_never_begun_is_damage() -> None:
    """Bad input 24: an ack, a lease and a trim of a stream that the sink is not over."""
    for note in (
        {"ack": 0, "stream": "nothing", "bucket": 0, "ranges": [[0, 1]]},
        {"lease": 99, "stream": "emails", "bucket": 7, "first": 0, "count": 1, "bytes": 9, "to": "a"},
        {"trim": 5, "stream": "nothing", "bucket": 0},
    ):
        assert check([*LIFE, orjson.dumps(note)]) == "damaged"


def test_an_impossible_ack_of_a_client_changes_nothing_and_is_counted() -> None:
    """Bad input 24: the same, said by a client."""
    core = lived()
    before = core.stats()
    core.take_notes()
    assert core.ack("a", 0, [(30, 40), (10**9, 10**9 + 5)], 1_001.0) == 0
    assert core.ack("a", 999, [(0, 5)], 1_001.0) == 0
    after = core.stats()
    assert core.take_notes() == []
    assert after.ignored == before.ignored + 15
    assert after.late_acks == before.late_acks + 5


# --- a stream's name is a path -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("stream", ["../../etc", "/etc", "a/b", "\0", "", ".", "a" * 200])
def test_a_cursor_over_what_is_no_stream_is_damage(stream: str) -> None:
    """Bad input 16: what a note names becomes a path below the data directory."""
    assert check([orjson.dumps({"cursor": 0, "stream": stream, "bucket": 0, "uuid": "u", "epoch": 1})]) == "damaged"


# --- anything at all ---------------------------------------------------------------------------------------------------
@st.composite
def mutilated(draw: st.DrawFn) -> list[bytes]:
    """A life or a snapshot in which notes are changed in one place each, left out, doubled or exchanged."""
    notes = list(draw(st.sampled_from([LIFE, SNAPSHOT])))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(notes) - 1))
        act = draw(st.sampled_from(["change", "change", "change", "drop", "double", "exchange", "insert"]))
        if act == "change":
            fields = orjson.loads(notes[at]) if len(notes[at]) < 1_000 else {"ack": 0}
            key = draw(st.sampled_from([*fields, "next", "alone", "first"]))
            notes[at] = with_field(fields, key, draw(JSON | ranges())) + b"}"
        elif act == "drop" and len(notes) > 1:
            del notes[at]
        elif act == "double":
            notes.insert(draw(st.integers(0, len(notes))), notes[at])
        elif act == "exchange":
            other = draw(st.integers(0, len(notes) - 1))
            notes[at], notes[other] = notes[other], notes[at]
        elif act == "insert":
            kind = draw(st.sampled_from(sorted(KINDS)))
            keys = draw(st.lists(st.sampled_from([*orjson.loads(KINDS[kind])]), unique=True))
            notes.insert(at, with_fields({kind: draw(JSON)} | {key: draw(JSON | ranges()) for key in keys}) + b"}")
    return notes


def ranges() -> st.SearchStrategy[bytes]:
    """What looks like an offset, ranges, delays or burned attempts."""
    offset = st.integers(0, 45)
    ranges = st.lists(st.lists(offset, min_size=2, max_size=2), max_size=3)
    burned = st.lists(st.tuples(offset, st.integers(0, 9), st.just("boom"), st.booleans()), max_size=2)
    return (offset | offset.map(float) | ranges | burned | st.lists(offset)).map(orjson.dumps)


@given(mutilated())
def test_any_notes_are_damage_or_a_sink_that_still_works(notes: list[bytes]) -> None:
    """Bad input 16, 24: whatever a log says, replay raises Damaged and nothing else, or the sink can go on."""
    assert check(notes) in ("damaged", "replayed")


@given(st.lists(st.binary(max_size=40) | JSON, min_size=1, max_size=4))
def test_a_log_of_any_lines_is_opened_or_refused(lines: list[bytes]) -> None:
    """Bad input 15: whole batches under right checksums, of lines that may be anything."""
    files, root = MemoryFiles(), Path("/disk")
    files.add(root / "sinks", None)
    directory = root / "sinks" / "mailers"
    log, _ = SinkLog.open(files, directory, "mailers")
    log.append([line.replace(b"\n", b"") + b"\n" for line in lines])
    log.write()
    try:
        log, notes = SinkLog.open(files, directory, "mailers")
    except LogError as error:
        assert str(directory) in str(error)  # noqa: PT017
    else:
        assert log.report.torn_bytes == 0
        core = new_core()
        for note in notes:
            try:
                core.replay(note)
            except Damaged:
                break

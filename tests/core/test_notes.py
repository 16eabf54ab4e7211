import orjson
import pytest

from dq.core.notes import Notebook, clip


def test_notes_are_json_lines_in_the_order_they_were_made():
    notebook = Notebook()
    notebook.add({"lease": 1})
    notebook.add({"ack": 1})
    assert notebook.take() == [b'{"lease":1}\n', b'{"ack":1}\n']
    assert notebook.take() == []


def test_notes_have_a_time_for_people_once_there_is_one():
    notebook = Notebook()
    notebook.wall = 1_700_000_000.5
    notebook.add({"lease": 1})
    assert [orjson.loads(line) for line in notebook.take()] == [{"lease": 1, "at": 1_700_000_000.5}]


def test_nothing_is_noted_while_muted():
    notebook = Notebook()
    notebook.muted = True
    notebook.add({"lease": 1})
    assert notebook.take() == []


def test_texts_are_clipped_to_what_a_note_can_carry():
    assert clip("plain ü") == "plain ü"
    orjson.dumps(clip("\ud800"))


def live_through_everything(desk):
    """One life in which each kind of note is written, with its text as it is drawn in `dq.core.notes`."""
    desk.commit(10)
    desk.join("a", credit=6)
    taken = desk.take()
    desk.ack(taken, (0, 1))
    desk.core.drop("a", taken.lease, [(1, 2)], desk.now)
    desk.retry(taken, 2, after=0.5, error="boom")
    desk.core.abandon("a", taken.lease, 3, desk.now)
    desk.core.release("a", taken.lease, [(5, 6)], desk.now)
    desk.advance(5)
    desk.core.renew("a", [taken.lease], desk.now)
    desk.advance(15)
    desk.core.dead_letter("a", taken.lease, 4, "bad", "", desk.now)
    desk.core.dead_letter_stored("emails", 0)
    desk.join("b", credit=4)
    desk.take_all()
    desk.die("b")
    desk.join("c", credit=2)
    desk.take()
    desk.die("c")
    desk.core.trimmed(("emails", 0), 6)
    desk.core.add_shard(("emails", 0), 0, "uuid-1", 2)
    return desk.notes()


SHARD = {"stream": "emails", "bucket": 0}


@pytest.mark.parametrize(
    "note",
    [
        {"cursor": 0, **SHARD, "uuid": "uuid-1", "epoch": 1},
        {"lease": 0, **SHARD, "first": 0, "count": 6, "bytes": 1200, "to": "a"},
        {"ack": 0, **SHARD, "ranges": [[0, 1]]},
        {"drop": 0, **SHARD, "ranges": [[1, 2]]},
        {"retry": 0, **SHARD, "offset": 2, "attempts": 1, "after": 0.5, "error": "boom"},
        {"abandon": 0, "offset": 3},
        {"release": 0, **SHARD, "ranges": [[5, 6]]},
        {"overdue": 0, **SHARD, "offset": 3, "attempts": 1, "error": "lease expired"},
        {"intent": 0, **SHARD, "offset": 4, "attempts": 1, "reason": "bad", "error": "", "consumer": "a"},
        {"stored": 0, "stream": "emails"},
        {"suspect": 0, "lease": 1, **SHARD, "ranges": [[2, 4]], "error": "consumer died"},
        {"lease": 4, **SHARD, "first": 2, "count": 1, "bytes": 200, "to": "c", "alone": True},
        {"lost": 4, **SHARD, "offset": 2, "attempts": 2, "error": "consumer died"},
        {"cleared": 0},
        {"trim": 6, **SHARD},
        {"epoch": 2, **SHARD},
    ],
    ids=lambda note: next(iter(note)),
)
def test_the_form_of_each_note_is_what_it_always_was(desk, note):
    notes = live_through_everything(desk)
    assert note in notes, "\n".join(map(str, notes))


@pytest.mark.parametrize(
    "note",
    [
        {"skip": [[0, 3]], **SHARD},
        {"lease": 0, **SHARD, "first": 3, "count": 4, "bytes": 400, "to": "a", "without": [[4, 5]]},
        {"remove": [[7, 8]], **SHARD},
        {"trim": 10, **SHARD, "removed": 1},
        {"paused": True},
        {"paused": False},
        {"cursor": 2, **SHARD, "uuid": "uuid-1", "epoch": 1},
        {"forget": "emails"},
    ],
    ids=lambda note: next(iter(note)),
)
def test_the_form_of_each_note_about_what_is_passed_over_is_what_it_always_was(desk, note):
    desk.commit(12)
    desk.join("a", credit=9)
    desk.core.skip(desk.core.offer(), 3)
    desk.core.lease(desk.core.offer(), 4, 400, desk.now, [(4, 5)])
    desk.core.removed(("emails", 0), [(7, 8), (9, 10)])
    desk.core.trimmed(("emails", 0), 10)
    desk.core.pause()
    desk.core.resume()
    desk.core.seek(("emails", 0), 2)
    desk.core.forget_stream("emails")
    notes = desk.notes()
    assert note in notes, "\n".join(map(str, notes))


def test_what_changes_nothing_is_not_noted(desk):
    desk.commit(10)
    desk.join("a", credit=5)
    taken = desk.take()
    desk.ack(taken)
    desk.notes()
    desk.ack(taken)
    desk.core.renew("a", [taken.lease], desk.now)
    desk.core.grant("a", 5)
    desk.core.offer()
    desk.commit(5)
    desk.advance(100)
    desk.core.trimmed(("emails", 0), 3)
    desk.core.dead_letter_stored("emails", 9)
    desk.core.leave("a", desk.now)
    assert desk.notes() == []

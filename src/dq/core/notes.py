"""What a sink's log says: one JSON object a line, whose first key is its kind.

As the sink lives::

    {"cursor":0,"stream":"emails","bucket":0,"uuid":"5c1e","epoch":1}                 a shard begins, or begins anew
    {"start":1048576}                                                                 a broker starts; its leases count from it
    {"lease":17,"stream":"emails","bucket":0,"first":100,"count":50,"bytes":10500,"to":"c-ab12"}
    {"lease":18,"stream":"emails","bucket":0,"first":7,"count":1,"bytes":210,"to":"c-ab12","alone":true}   a suspect
    {"lease":19,"stream":"emails","bucket":0,"first":150,"count":50,"bytes":4200,"to":"c-ab12","without":[[160,190]]}
                                                                                      passed over within it: never in the hand
    {"lease":20,"stream":"emails","bucket":0,"first":190,"count":1,"bytes":210,"to":"c-ab12","burned":[[190,1,2,"…"]]}
                                                                                      came with attempts burned: first, records,
                                                                                      attempts, error
    {"lease":20, …,"to":"c-ab12","pid":4711}                                          the process of the consumer, where it was
                                                                                      told; also of "deliver", "held", "ended"
    {"deliver":21,"stream":"emails","bucket":0,"first":200,"count":50,"to":"c-ab12"}  leased by a sink without acks, and so
                                                                                      settled; may have "without" too
    {"skip":[[250,900]],"stream":"emails","bucket":0}                                 passed over: they do not match its filter
    {"remove":[[900,901]],"stream":"emails","bucket":0}                               passed over: taken out of the stream
    {"expire":[[901,950]],"stream":"emails","bucket":0}                               passed over: their time was over
    {"ack":17,"stream":"emails","bucket":0,"ranges":[[100,120],[121,150]]}            only what it newly settled
    {"drop":17,"stream":"emails","bucket":0,"ranges":[[120,121]]}
    {"expired":17,"stream":"emails","bucket":0,"ranges":[[121,122]]}                  not handed to the user's code, for that
    {"release":17,"stream":"emails","bucket":0,"ranges":[[140,150]],"why":"left"}     given back, no attempt burned; "why" where
                                                                                      its consumer did not say so itself:
                                                                                      "left", "not_back", "order",
                                                                                      "taken_back" (by an operator)
    {"extend":17,"stream":"emails","bucket":0,"offset":120,"seconds":60.0}            more time for one record; for people
    {"retry":17,"stream":"emails","bucket":0,"offset":120,"attempts":1,"after":0.05,"error":"ValueError: …"}
    {"overdue":17,"stream":"emails","bucket":0,"offset":120,"attempts":2,"error":"lease expired"}
    {"lost":17,"stream":"emails","bucket":0,"offset":120,"attempts":2,"error":"consumer died"}     with it alone in hand
    {"suspect":4,"lease":17,"stream":"emails","bucket":0,"ranges":[[120,150]],"error":"consumer died"}   4: their group
    {"cleared":4}                                                                     the rest of a group is innocent
    {"abandon":17,"offset":120}                                                       left unsettled by its client
    {"intent":0,"stream":"emails","bucket":0,"offset":120,"attempts":5,"reason":"max_attempts","error":"…","consumer":"c-ab12"}
    {"intent":0,"stream":"emails", …,"reason":"retry","due":1763797000.1}             it waits until then among the delayed
                                                                                      records; counted apart from the others
    {"stored":0,"stream":"emails"}                                                    the dead letter of intent 0
    {"stored":0,"stream":"emails@later"}                                              the one with "due"
    {"epoch":2,"stream":"emails","bucket":0}                                          the stream was started uncleanly
    {"trim":1000,"stream":"emails","bucket":0}                                        the log begins at 1000 now; "removed":
                                                                                      so many below had been taken out of it
    {"cut":900,"stream":"emails","bucket":0}                                          the log lost what was from 900 on
    {"forget":"emails"}                                                               the sink is over that stream no more
    {"paused":true}                                                                   nothing is offered until it is false

At the head of a segment, the state so far; the first of these makes all earlier notes void::

    {"snapshot":1,"next_lease":19,"next_group":5,"next_intents":{"emails":1},"counters":{"settled":900,…},"paused":false}
    {"cursor":100,"stream":"emails","bucket":0,"uuid":"5c1e","epoch":1,"next":150,"settled":[[121,130]],"returned":[],
        "suspects":[],"delayed":[[120,0.05]],"burned":[[120,1,"ValueError: …",false]]}       (one line)
    {"held":17,"stream":"emails","bucket":0,"first":100,"count":50,"bytes":10500,"to":"c-ab12","open":[[140,150]],
        "left":[140],"alone":false}                                                   left: abandoned       (one line)
    {"ended":16,"stream":"emails","bucket":0,"first":50,"count":50,"bytes":0,"to":"c-ab12"}      for late acks
    {"group":4,"members":[["emails",0,[[120,150]]]]}
    {"dying":0, …}                                                                    as "intent"

Each note also has `"at"`, wall time for people, where the broker set one; nothing reads it. The end of a delay is not
noted: times start anew with the broker. Version 1. A kind may be added, and a key to a kind: a reader skips the
kinds and keys it does not know. What a kind or key means never changes.
"""

from __future__ import annotations

from typing import Any

import orjson

from dq.core.leases import Lease
from dq.core.ranges import Range
from dq.model.dead_letter import DeadLetter

TEXT_CHARS_MAX = 4_096
"""Of an error or a reason: a stack trace fits, a payload by mistake in an exception does not fill the log."""


class Notebook:
    """Collects notes until they are taken to be written.

    Attributes:
        wall: what "at" of the notes taken next will be; 0 leaves it out.
        muted: nothing is noted, as during a replay.
    """

    __slots__ = ("_notes", "muted", "wall")

    def __init__(self) -> None:
        self._notes: list[dict[str, Any]] = []
        self.wall = 0.0
        self.muted = False

    def add(self, note: dict[str, Any]) -> None:
        """Notes what was done. The note is kept as it is: nobody may change it, or what is in it, any more."""
        if not self.muted:
            self._notes.append(note)

    def take(self) -> list[bytes]:
        """All lines since the last call."""
        notes, self._notes = self._notes, []
        return [self.line(note) for note in notes]

    def line(self, note: dict[str, Any]) -> bytes:
        """A note as it stands in the log."""
        if self.wall:
            note["at"] = self.wall
        return orjson.dumps(note, option=orjson.OPT_APPEND_NEWLINE)


def clip(text: str) -> str:
    """A text of a client as a note can carry it: not too long, and nothing that UTF-8 has no bytes for."""
    return text[:TEXT_CHARS_MAX].encode("utf-8", "replace").decode()


def lease_note(kind: str, lease: Lease) -> dict[str, Any]:
    """What the notes of a lease have in common."""
    note = {
        kind: lease.number,
        "stream": lease.shard[0],
        "bucket": lease.shard[1],
        "first": lease.first,
        "count": lease.stop - lease.first,
        "bytes": lease.size,
        "to": lease.hand.name,
    }
    if lease.hand.pid:
        note["pid"] = lease.hand.pid
    return note


def release_note(lease: Lease, ranges: list[Range], why: str) -> dict[str, Any]:
    """What is noted of ranges that come back. `why`: see above; "": their consumer gave them back."""
    note: dict[str, Any] = {"release": lease.number, "stream": lease.shard[0], "bucket": lease.shard[1], "ranges": ranges}
    if why:
        note["why"] = why
    return note


def extend_note(lease: Lease, offset: int, seconds: float) -> dict[str, Any]:
    """What is noted of a record in hand that was given more time. The deadline itself begins anew with the broker."""
    stream, bucket = lease.shard
    return {"extend": lease.number, "stream": stream, "bucket": bucket, "offset": offset, "seconds": max(float(seconds), 0.0)}


def letter_note(kind: str, letter: DeadLetter) -> dict[str, Any]:
    """What the notes of an intent have in common."""
    note: dict[str, Any] = {
        kind: letter.intent,
        "stream": letter.stream,
        "bucket": letter.bucket,
        "offset": letter.offset,
        "attempts": letter.attempts,
        "reason": letter.reason,
        "error": letter.error,
        "consumer": letter.consumer,
    }
    return note | {"due": letter.due} if letter.due else note

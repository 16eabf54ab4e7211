"""`dq events [DIR]`: the envelopes that pass the broker's processes, live: types and sizes, no payload."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import click
import orjson

from dq.cli.exits import Exit
from dq.cli.options import as_json, directory, examples
from dq.cli.output import one_line, safe, styled
from dq.client.watcher import PROCESSES, Seen, Watcher

_SECONDS = 1.0
_BOLD, _DIM, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"


@click.command(epilog=examples("dq events", "dq events -f", "dq events --json -n 100 | jq .kind"))
@directory
@click.option("-f", "--follow", is_flag=True, help="Go on until Ctrl-C (default: what passes in a second).")
@click.option("-n", "--count", type=click.IntRange(1), metavar="COUNT", help="End after so many, however long that takes.")
@as_json
def command(root: Path, follow: bool, count: int | None, as_json: bool) -> int:
    """Shows the envelopes that pass the processes of a broker, live; payloads are never shown.

    Each line is an envelope, as one of the three processes reads (<-) or writes (->) it: when, which process, who is at the
    other end, its type and owner, where it belongs, how long its line is and what follows it. Who reads too slowly misses some,
    which is counted and shown; the broker waits for nobody. It ends with 1 when the broker ends.
    """
    with Watcher(root) as watcher:
        view = _View(watcher, as_json=as_json)
        until = None if follow or count else time.monotonic() + _SECONDS
        while count is None or view.shown < count:
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                break
            seen = watcher.take(left)
            view.show(seen if count is None else seen[: count - view.shown])
    return Exit.WELL


class _View:
    """Prints what was seen, in colours on a terminal."""

    def __init__(self, watcher: Watcher, *, as_json: bool) -> None:
        self._watcher, self._as_json = watcher, as_json
        self._bold, self._dim, self._plain = (_BOLD, _DIM, _PLAIN) if styled() else ("", "", "")
        self._missed = self.shown = 0

    def show(self, seen: list[Seen]) -> None:
        """Prints a line each, and what was missed before them."""
        for process in self._watcher.replaced:
            self._remark(f"the {_name(process)} ended, and is replaced")
        self._watcher.replaced.clear()
        if self._watcher.missed > self._missed:
            self._remark(f"{self._watcher.missed - self._missed:,} envelopes passed that are not shown: this reads too slowly")
            self._missed = self._watcher.missed
        for each in seen:
            print(safe(orjson.dumps(asdict(each)).decode()) if self._as_json else self._line(each))
        self.shown += len(seen)
        sys.stdout.flush()

    def _remark(self, text: str) -> None:
        """Beside the envelopes, so that what reads them need not know it."""
        print(f"dq: {text}", file=sys.stderr if self._as_json else sys.stdout)

    def _line(self, seen: Seen) -> str:
        clock = datetime.fromtimestamp(seen.at).strftime("%H:%M:%S.%f")
        arrow = "<-" if seen.direction == "in" else "->"
        inside = seen.peer.lower() in PROCESSES  # else a client is at the other end
        end = _name(seen.peer.lower()) if inside else one_line(seen.client or "a client")
        fields = {"client": seen.client, **seen.fields} if inside and seen.client else seen.fields
        where = "".join(f" {name}={one_line(value)}" for name, value in fields.items())
        size = f"{seen.bytes}+{seen.body} bytes"
        return (
            f"{self._dim}{clock}{self._plain} {_name(seen.process):16} {arrow} {end:16} "
            f"{self._bold}{seen.kind:9}{self._plain} of {_name(seen.speaker.lower()):16}{where} {self._dim}{size}{self._plain}"
        )


def _name(process: str) -> str:
    return process.replace("_", " ")

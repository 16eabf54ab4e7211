"""What is done with a sink as a whole: made, moved, paused, put over streams and taken off them, destroyed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dq.broker.holders import Holders, take_back
from dq.broker.sink_run import SinkRun
from dq.broker.sinks import Sinks
from dq.errors import InvalidSetting
from dq.model.event import Event
from dq.model.names import check_name
from dq.model.shown import shown

Result = dict[str, Any]


class SinkChanges:
    """Does what CHANGE events ask. Each of them may come twice, from a manager whose broker was replaced meanwhile.

    Args:
        sinks: of the directory.
        changed: told of a sink that may have more to hand out now.
        end: takes a sink's consumers off it, before it is destroyed.
        holders: answers who holds what.
    """

    def __init__(
        self, sinks: Sinks, changed: Callable[[SinkRun], None], end: Callable[[SinkRun], None], holders: Holders
    ) -> None:
        self._sinks, self._changed, self._end, self._holders = sinks, changed, end, holders

    def do(self, event: Event) -> Result:
        """Does what is asked, on disk when it returns, and says what became of it.

        Raises:
            DqError: it cannot be done; nothing has changed.
        """
        what = event["what"]
        if what == "list":
            return {"sinks": sorted({*self._sinks.runs, *self._sinks.closed})}
        if what == "who":
            return self._holders.tell(event)
        if what == "destroy":
            return self._destroy(check_name("sink", event["name"]))
        if what == "open" and event.get("create", False):
            run = self._sinks.get_or_make(check_name("sink", event["name"]), event.get("wish", {}), event.get("opened", ()))
        else:
            run = self._sinks.get(check_name("sink", event["name"]))
        if what not in _ACTS:
            raise InvalidSetting(f"nobody can {shown(what)} a sink; known are {', '.join([*_ACTS, 'destroy', 'list', 'who'])}")
        told = _ACTS[what](self, run, event)
        if what != "stats":
            run.write_notes()
            run.sync()
            self._changed(run)
        return {**run.status(), **(told or {})}

    def _destroy(self, name: str) -> Result:
        """One that there is not is no error: it may be asked for again, by a manager whose broker died after the deed."""
        if name in self._sinks.runs:
            self._end(self._sinks.runs[name])
        self._sinks.destroy(name)
        return {}

    def _open(self, run: SinkRun, event: Event) -> None:
        run.settings.check_wish("sink", run.name, event.get("wish", {}))
        for opened in event.get("opened", ()):
            self._sinks.put_over(run, opened)

    def _add_stream(self, run: SinkRun, event: Event) -> None:
        start = event.get("wish", {}).get("start")
        if start is not None and not isinstance(start, str):
            raise InvalidSetting(f"a sink begins at a start, not at {shown(start)}")
        for opened in event.get("opened", ()):
            self._sinks.put_over(run, opened, start)

    def _remove_stream(self, run: SinkRun, event: Event) -> None:
        wish = event.get("wish", {})
        self._sinks.take_off(run, check_name("stream", wish.get("stream")), destroy=wish.get("destroy") is True)

    def _seek(self, run: SinkRun, event: Event) -> None:
        start = event.get("wish", {}).get("start")
        if not isinstance(start, str):
            raise InvalidSetting(f"a sink is moved to a start, not to {shown(start)}")
        for opened in event.get("opened", ()):  # as far as its streams are now; without consumers nobody has told
            self._sinks.put_over(run, opened)
        run.shards.seek(start)

    def _release(self, run: SinkRun, event: Event) -> Result:
        return {"released": take_back(run, event.get("ids", ()), event.get("wish", {}).get("consumer"))}

    def _pause(self, run: SinkRun, _event: Event) -> None:
        run.core.pause()

    def _resume(self, run: SinkRun, _event: Event) -> None:
        run.core.resume()

    def _stats(self, run: SinkRun, _event: Event) -> None:
        """Nothing is done; its figures are the answer."""


_ACTS: dict[str, Callable[[SinkChanges, SinkRun, Event], Result | None]] = {
    "open": SinkChanges._open,
    "add_stream": SinkChanges._add_stream,
    "remove_stream": SinkChanges._remove_stream,
    "seek": SinkChanges._seek,
    "pause": SinkChanges._pause,
    "resume": SinkChanges._resume,
    "release": SinkChanges._release,
    "stats": SinkChanges._stats,
}

"""`App`: handlers over streams, and the run that gives them their tasks."""

from __future__ import annotations

import os
import re
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dq.app.config import AppConfig
from dq.app.engine import Engine
from dq.app.every import Recurrences, ticking
from dq.app.handler import Handler
from dq.app.report import Report, Reports
from dq.app.running import Run
from dq.errors import InvalidSetting, UsageError
from dq.model.names import check_name

if TYPE_CHECKING:
    from dq.client.place import Place

Function = TypeVar("Function", bound=Callable[..., Any])
MADE: weakref.WeakSet[App] = weakref.WeakSet()
"""All apps of this process: a worker process looks among those that its import made."""
WORKER_OF: list[str] = []
"""In a worker process, the handler that it is for."""


class App(Recurrences):
    """Handlers, and what they are run over. Making one connects to nothing: `run` and `publish` do.

    Args:
        engine_or_path: the path of a data directory (a broker is started if none runs there; None finds it, as `dq.connect`
            does), a broker's handle, or an `Engine`.
        sink: the first part of the names of the handlers' sinks, `<sink>.<handler>`; default "workers". Apps of one sink share
            the work of handlers of the same name, wherever they run.
        config: every number.

    Attributes:
        handlers: those that were registered, by name.
        config: as given.
        home: the module that the command line named, or None.

    Raises:
        InvalidName, InvalidSetting.
    """

    def __init__(self, engine_or_path: Engine | Place = None, sink: str = "workers", config: AppConfig | None = None) -> None:
        super().__init__()
        if config is not None and not isinstance(config, AppConfig):
            raise InvalidSetting(f"config is an AppConfig, not {config!r}")
        self.sink = check_name("sink", sink)
        self.config = config or AppConfig()
        self.handlers: dict[str, Handler] = {}
        self._given = engine_or_path
        self._engine: Engine | None = engine_or_path if isinstance(engine_or_path, Engine) else None
        place = isinstance(engine_or_path, (str, os.PathLike, type(None)))
        if self._engine is None and not place and not isinstance(getattr(engine_or_path, "root", None), Path):
            raise InvalidSetting(f"an App runs over a path, a broker or an Engine, not {engine_or_path!r}")
        self._lock = threading.RLock()  # a signal handler may stop it
        self._run: Run | None = None
        self._stop_asked = False
        self.home: str | None = None
        MADE.add(self)

    def move(self, place: Place = None, sink: str | None = None) -> None:
        """Before it runs: gives it another place or sink than it was made with, as a command line may ask for.

        Args:
            place: a broker's handle or a path; None: as it was made.
            sink: the first part of the names of the handlers' sinks; None: as it was made.

        Raises:
            UsageError: it runs, or has an engine already.
            InvalidName.
        """
        with self._lock:
            if self._run is not None or (place is not None and self._engine is not None):
                raise UsageError("this app has an engine already: give it another place where it is made")
            self.sink = self.sink if sink is None else check_name("sink", sink)
            self._given = self._given if place is None else place

    @property
    def place(self) -> Place:
        """The broker's handle or the path that it was made with; None: neither."""
        return None if isinstance(self._given, Engine) else self._given

    @property
    def has_engine(self) -> bool:
        """Whether it was given an engine of its own, or has begun to use dq's."""
        return self._engine is not None

    # --- handlers --------------------------------------------------------------------------------------------------

    def handler(
        self,
        *streams: str,
        name: str | None = None,
        topic: str | None = None,
        pattern: str | re.Pattern[str] | None = None,
        max_in_flight: int | None = None,
        processes: int = 0,
        timeout: float | None = None,
        once: Any = None,
    ) -> Callable[[Function], Function]:
        """Registers the function below it, which stays what it is.

        The function's first argument is the payload, as it is annotated: a dataclass, a TypedDict, dict, list, str, …; one that
        does not fit is dead-lettered, not tried again. A second one that is annotated `Task` gets the task. It returns None
        (done) or an outcome; when it raises, the task is tried again later, up to `handler_max_attempts`.

        Args:
            streams: their names; a missing one is made with its defaults.
            name: of the handler. Its sink is named by it: with another name it begins anew. Default: the function's.
            topic: only records with this topic.
            pattern: only records in whose topic this regular expression is found.
            max_in_flight: tasks at once, of an app; default: as the configuration has it, 256.
            processes: so many processes of its own, for work that holds the interpreter; default 0: threads.
            timeout: seconds for one task; default None: no limit. In a process, and of an async function, it is stopped then
                and tried again; in a thread it can only be reported.
            once: a store that remembers what was done, so that it is not done twice.

        Raises:
            InvalidName, InvalidSetting: something of it cannot be, or there is a handler of that name.
        """
        caller = sys._getframe(1)
        scope, module = (
            caller.f_locals,
            str(caller.f_globals.get("__name__")),
        )  # annotations may name what is local to the caller

        def register(function: Function) -> Function:
            self._add(
                Handler(
                    function, streams, name=name, topic=topic, pattern=pattern, max_in_flight=max_in_flight,
                    processes=processes, timeout=timeout, once=once, scope=scope,
                    module=module,
                )
            )  # fmt: skip
            return function

        return register

    def register(self, instance: Any, *streams: str, **wishes: Any) -> Any:
        """Registers an object by its method `handle`, sync or async; returns it.

        Args:
            instance: the object. Attributes `streams` (a name or several), `name`, `topic`, `pattern`, `max_in_flight`,
                `processes`, `timeout` and `once` of it count where they are not given here. The name is that of its class
                otherwise.
            streams, wishes: as of `handler`.

        Raises:
            InvalidName, InvalidSetting.
        """
        function = getattr(instance, "handle", None)
        if not callable(function):
            raise InvalidSetting(f"{instance!r} has no method `handle` that takes the payload")
        own = getattr(instance, "streams", ())
        names = streams or ((own,) if isinstance(own, str) else tuple(own))
        for wish in ("name", "topic", "pattern", "max_in_flight", "processes", "timeout", "once"):
            if wish not in wishes and hasattr(instance, wish):
                wishes[wish] = getattr(instance, wish)
        module = str(sys._getframe(1).f_globals.get("__name__"))
        self._add(Handler(function, names, module=module, **wishes))
        return instance

    def _add(self, handler: Handler) -> None:
        with self._lock:
            if self._run is not None:
                raise UsageError(f"handler {handler.name!r} comes too late: the app runs")
            if handler.name in self.handlers:
                raise InvalidSetting(f"there is a handler {handler.name!r} already, and a sink for each name: give name=")
            check_name("sink", self.sink_of(handler))
            self.handlers[handler.name] = handler

    def _add_recurring(self, function: Callable[..., Any], stream: str, **wishes: Any) -> None:
        self._add(Handler(function, (stream,), **wishes))

    def sink_of(self, handler: Handler) -> str:
        """The name of a handler's sink: each has its own, so that each gets every task, and a retry runs that handler alone."""
        return f"{self.sink}.{handler.name}"

    # --- the engine --------------------------------------------------------------------------------------------------

    @property
    def engine(self) -> Engine:
        """What it runs over; dq's own is made at the first use."""
        with self._lock:
            if self._engine is None:
                from dq.app.dq_engine import DqEngine

                self._engine = DqEngine(self._given)  # type: ignore[arg-type]
            return self._engine

    def exchange_engine(self, engine: Engine | None) -> Engine | None:
        """Puts another engine in place of the app's, which is returned; for tests. None: the one it was given, at the next use.

        Raises:
            UsageError: the app runs.
        """
        with self._lock:
            if self._run is not None:
                raise UsageError("the app runs: stop it before another engine takes the place of its own")
            self._engine, before = engine, self._engine
            return before

    def publish(
        self,
        stream: str,
        payload: Any,
        *,
        key: str | None = None,
        topic: str | None = None,
        name: str = "",
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> str:
        """Publishes one record and returns its id once it is committed; also for handlers, from any thread.

        Args:
            options: `delay`, `once`, `priority`, `expires`, where the engine has them.
        """
        return self.engine.publish(stream, payload, key=key, topic=topic, name=name, headers=headers, **options)

    def report(self) -> Report:
        """Counts what became of all that was sent to the handlers, from the logs of streams and sinks.

        Nothing of it is counted in memory. A broker may run meanwhile, or none.

        Raises:
            UsageError: the engine has no logs that could be read.
            Damaged, LogError: a log cannot be read.
        """
        engine = self.engine
        if not isinstance(engine, Reports):
            raise UsageError(f"{engine!r} has no logs to count from: an App over dq's own broker has")
        return engine.report({name: (self.sink_of(handler), handler.streams) for name, handler in self.handlers.items()})

    # --- running -----------------------------------------------------------------------------------------------------

    def run(self, burst: bool = False) -> None:
        """Runs the handlers until it is stopped: by `stop()`, or by SIGTERM or SIGINT where this is the main thread.

        A stop begins no new work, gives back what was not started (no attempt burned), waits up to `drain_seconds` for what is
        in flight, then for the settles to be confirmed, and returns. A second signal, or `stop(now=True)`, does not wait for
        what
        is in flight: that goes back, no attempt burned.

        Args:
            burst: return once all sinks are empty and nothing is to be tried again.

        Raises:
            InvalidSetting: there is no handler.
            SettingsMismatch: a handler's sink exists with other settings.
            Exception: what an engine raised when it was fetched from: the app has been stopped, in order, by then.
        """
        with self._lock:
            if self._run is not None:
                raise UsageError("this app runs already")
            if WORKER_OF:
                raise UsageError(
                    f"a worker process of handler {WORKER_OF[0]!r} came to app.run() when it imported it: put that under "
                    'if __name__ == "__main__":'
                )
            if not self.handlers and not self.recurring:
                raise InvalidSetting("an app without a handler has nothing to run: register one first")
            self._run = run = Run(self)
            if self._stop_asked:
                run.stop()
        try:
            with ticking(self, burst=burst):
                run.run(burst=burst)
        finally:
            with self._lock:
                self._run, self._stop_asked = None, False

    def stop(self, now: bool = False) -> None:
        """Has `run` drain and return; from any thread, handler and signal handler. Before `run`, it returns at once.

        Args:
            now: do not wait for what is in flight.
        """
        with self._lock:
            self._stop_asked = True
            run = self._run
        if run is not None:
            run.stop(now=now)

    def close(self) -> None:
        """Lets go of the broker. Safe twice."""
        with self._lock:
            engine = self._engine
        if engine is not None:
            engine.close()

    def __enter__(self) -> App:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<App {self.sink!r} of {', '.join(self.handlers) or 'no handlers'}>"

"""`Handler`: one function (or object) of the user's, the streams it is for, and how it is called."""

from __future__ import annotations

import inspect
import re
import sys
import typing
from collections.abc import Callable, Mapping
from typing import Any

from dq import tracing
from dq.app.config import check_capacity, check_seconds
from dq.app.engine import Delivery
from dq.app.once import OnceStore, with_store, within
from dq.app.outcomes import DeadLetter
from dq.app.payloads import Converter, converter_of
from dq.errors import InvalidSetting
from dq.model.names import check_name, check_new_stream
from dq.model.settings import check_pattern

PROCESSES_MAX = 1_024
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Handler:
    """What an app runs for each task of some streams.

    Args:
        function: takes the payload, and the task if its second argument is annotated `Task`.
        streams: names of the streams.
        name: of the handler: its sink is `<sink of the app>.<name>`, so another name is another cursor. Default: the
            function's.
        topic, pattern: only records with that topic, or with one in which the regular expression is found.
        max_in_flight: tasks at once; default None: as the app's configuration has it.
        processes: so many processes of its own for work that holds the interpreter; default 0: threads.
        timeout: seconds for one task; default None: no limit.
        once: a store that remembers which tasks were done; default None.
        module: the one that registered it, which a worker process is to import; default: the function's.
        scope: names by which annotations are looked up beside the function's module.

    Attributes:
        is_async: whether `function` is a coroutine function.
        wants_task: whether it takes the task too.
        call: takes a `Delivery`; returns what the function returns (a coroutine, if it is async), or a `DeadLetter` where the
            payload does not fit. It raises what the function raises.

    Raises:
        InvalidName, InvalidSetting: something of it cannot be.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        streams: tuple[str, ...],
        *,
        name: str | None = None,
        topic: str | None = None,
        pattern: str | re.Pattern[str] | None = None,
        max_in_flight: int | None = None,
        processes: int = 0,
        timeout: float | None = None,
        once: OnceStore | None = None,
        module: str | None = None,
        scope: Mapping[str, Any] | None = None,
    ) -> None:
        if not callable(function):
            raise InvalidSetting(f"a handler is a function, or an object with a method `handle`, not {function!r}")
        self.module = module or str(getattr(function, "__module__", "__main__"))
        self.qualname = str(getattr(function, "__qualname__", type(function).__qualname__))
        if once is not None:
            function = with_store(function, once, scope)
        if not streams:
            raise InvalidSetting('a handler is for one stream or more: @app.handler("emails")')
        self.function = function
        self.name = _checked_name(function, name)
        self.streams = tuple(dict.fromkeys(check_new_stream(stream) for stream in streams))
        if topic is not None and pattern is not None:
            raise InvalidSetting(f"handler {self.name!r} has a topic or a pattern, not both")
        self.topic = None if topic is None else check_name("topic", topic)
        if pattern is not None and not isinstance(pattern, re.Pattern):
            check_pattern(pattern)
        self.pattern = pattern
        self.max_in_flight = None if max_in_flight is None else check_capacity("max_in_flight", max_in_flight)
        if isinstance(processes, bool) or not isinstance(processes, int) or not 0 <= processes <= PROCESSES_MAX:
            raise InvalidSetting(f"processes must be a whole number from 0 to {PROCESSES_MAX:,}, not {processes!r}")
        self.processes = processes
        self.timeout = None if timeout is None else check_seconds("timeout", timeout, 0.001)
        self.once = once
        self.is_async = any(map(inspect.iscoroutinefunction, (function, type(function).__call__)))
        self.wants_task, self.converter = self._signature(scope)
        self.call: Callable[[Delivery], Any] = self._caller() if once is None else within(once, self._caller())

    def _signature(self, scope: Mapping[str, Any] | None) -> tuple[bool, Converter | None]:
        parameters = list(inspect.signature(self.function).parameters.values())
        asked = [parameter for parameter in parameters if parameter.kind in _POSITIONAL]
        needed = [
            parameter
            for parameter in parameters
            if parameter.default is parameter.empty and parameter.kind is parameter.KEYWORD_ONLY
        ]
        if not asked or needed or len([parameter for parameter in asked if parameter.default is parameter.empty]) > 2:
            raise InvalidSetting(
                f"handler {self.name!r} takes the payload, and the task if it likes: def {self.name}(payload, task: Task)"
            )
        hints = self._hints(scope)
        first = hints.get(asked[0].name, Any)
        if _is_task(first):
            raise InvalidSetting(f"the first argument of handler {self.name!r} is the payload, the task is the second one")
        converter = converter_of(first)
        if len(asked) == 1:
            return False, converter
        second = asked[1]
        if _is_task(hints.get(second.name)):
            return True, converter
        if second.default is second.empty:
            raise InvalidSetting(
                f"the second argument of handler {self.name!r} is the task: annotate it, `{second.name}: Task`"
            )
        return False, converter

    def _hints(self, scope: Mapping[str, Any] | None) -> dict[str, Any]:
        function = self.function
        if not inspect.isroutine(function):
            function = type(function).__call__
        try:
            return typing.get_type_hints(function, localns=dict(scope or {}))
        except NameError as error:
            raise InvalidSetting(
                f"an annotation of handler {self.name!r} cannot be looked up ({error}): define or import it above the handler, "
                "and not under TYPE_CHECKING"
            ) from error

    def _caller(self) -> Callable[[Delivery], Any]:
        """The shortest way from a delivery to the function."""
        function, converter, wants_task = self.function, self.converter, self.wants_task
        if converter is None:
            if wants_task:
                return lambda delivery: function(delivery.payload, delivery)
            return lambda delivery: function(delivery.payload)

        def converted(delivery: Delivery) -> Any:
            try:
                payload = converter(delivery.payload)
            except Exception as error:
                return DeadLetter(
                    f"the payload does not fit handler {self.name!r}: {error}", error=f"{type(error).__name__}: {error}"
                )
            return function(payload, delivery) if wants_task else function(payload)

        return converted

    def __repr__(self) -> str:
        return f"<Handler {self.name!r} of {', '.join(self.streams)}>"


def traced(handler: Handler) -> Callable[[Delivery], Any]:
    """How a handler is called: within a span, in a process that traces."""
    if tracing.tracer is None:
        return handler.call
    return tracing.tracer.handling(handler.name, handler.call, is_async=handler.is_async)


def _checked_name(function: Callable[..., Any], name: str | None) -> str:
    if name is None:
        name = getattr(function, "__name__", type(function).__name__)
        if name == "handle":  # the method of an object: its class says more
            name = type(getattr(function, "__self__", function)).__name__
        if name == "<lambda>":
            raise InvalidSetting("a lambda has no name, and a handler's sink is named by it: give name=")
    return check_name("handler", name)


def _is_task(annotation: Any) -> bool:
    """Whether an argument is to be the task. dq's own class is not imported for it: another engine may have been given."""
    if annotation is Delivery:
        return True
    task = getattr(sys.modules.get("dq.client.task"), "Task", None)
    return isinstance(annotation, type) and task is not None and issubclass(annotation, task)

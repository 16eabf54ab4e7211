"""A search by a user's pattern that ends: a regular expression can take longer than the universe for a topic of 40 letters."""

from __future__ import annotations

import re
import signal
import threading
from typing import NoReturn

from dq.config import LIMITS
from dq.errors import InvalidSetting
from dq.model.shown import shown


def bounded_search(pattern: re.Pattern[str], topic: str) -> bool:
    """Whether a pattern is found in a topic. In a main thread it takes `pattern_seconds` of this process's time at the most:
    CPython's `re` looks for signals on its way. (In another thread, as in a test, nothing bounds it.)

    Raises:
        InvalidSetting: it takes longer.
    """
    if threading.current_thread() is not threading.main_thread():
        return pattern.search(topic) is not None

    def too_long(*_: object) -> NoReturn:
        raise InvalidSetting(
            f"the pattern {shown(pattern.pattern)} takes more than {LIMITS.pattern_seconds:g} s for the topic {shown(topic)}, "
            "and everybody else waits meanwhile: destroy the sink, and make it with one that tries fewer ways, "
            "as ^a+$ for (a+)+$"
        )

    before = signal.signal(signal.SIGVTALRM, too_long)
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, LIMITS.pattern_seconds)
        found = pattern.search(topic)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
        signal.signal(signal.SIGVTALRM, before)
    return found is not None

"""For tests of programs that use dq: an app in one process with a clock moved by hand, a real broker, a task made by hand.

In a `conftest.py`::

    pytest_plugins = ["dq.testing"]

or `from dq.testing import dq_app, dq_broker, task`. An app is tested without a broker, a disk or a thread::

    def test_a_mail_that_fails_is_tried_again(dq_app):
        tester = dq_app(app)
        tester.publish("emails", {"to": "ada@example.org"})
        tester.run_until_idle()
        assert [done.payload for done in tester.acked] == [{"to": "ada@example.org"}]

A function of a task needs not even that::

    def test_a_mail_without_an_address_is_given_up():
        letter = task({"to": ""})
        send_mail(letter)
        assert letter.outcome == Outcome.DEAD_LETTER
        assert letter.reason == "no address"
"""

from __future__ import annotations

from dq.testing.app_tester import AppTester, Done
from dq.testing.fixtures import dq_app, dq_broker
from dq.testing.hand_clock import HandClock
from dq.testing.hand_made import HandMadeTask, task
from dq.testing.memory_engine import MemoryEngine

__all__ = ["AppTester", "Done", "HandClock", "HandMadeTask", "MemoryEngine", "dq_app", "dq_broker", "task"]

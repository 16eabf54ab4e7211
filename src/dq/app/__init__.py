"""Handlers: functions that are called for each task of some streams, with retries, dead letters and an orderly stop."""

from __future__ import annotations

from dq.app.application import App
from dq.app.config import AppConfig
from dq.app.engine import Delivery, Engine, Subscription, SubscriptionSettings
from dq.app.handler import Handler
from dq.app.once import FileOnce, SqliteOnce, Values
from dq.app.outcomes import Ack, DeadLetter, Drop, Release, Retry
from dq.app.report import Report, ReportLine

__all__ = [
    "Ack", "App", "AppConfig", "DeadLetter", "Delivery", "Drop", "Engine", "FileOnce", "Handler", "Release", "Report",
    "ReportLine", "Retry", "SqliteOnce", "Subscription", "SubscriptionSettings", "Values",
]  # fmt: skip

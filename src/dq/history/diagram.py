"""A biography as a mermaid sequence diagram: who said what to whom, from top to bottom."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

from dq.history.values import History, HistoryEvent, Kind
from dq.history.words import sentence, who

_BROKER: Final = "PublisherBroker"
_PLAIN = re.compile(r"[^\w .,:/()'*=@?!|~^$-]", re.ASCII)
_LOST: Final = frozenset({Kind.LOST, Kind.SUSPECTED, Kind.OVERDUE})
_FROM_CONSUMER: Final = frozenset(
    {Kind.EXTENDED, Kind.ABANDONED, Kind.FAILED, Kind.PUT_OFF, Kind.GIVEN_UP, Kind.ACKED, Kind.DROPPED}
)
_TO_CONSUMER: Final = frozenset({Kind.LEASED, Kind.DELIVERED})
_STORED: Final = frozenset({Kind.WAITS, Kind.BURIED})


def escaped(text: str) -> str:
    """Text as a label of a diagram: whatever could mean something to mermaid, or to the page around it, is a character code."""
    return _PLAIN.sub(lambda found: f"#{ord(found[0])};", text)


class _Diagram:
    def __init__(self, history: History) -> None:
        self._history = history
        self._names: dict[str, str] = {}
        self._labels: list[str] = []
        self._lines: list[str] = []

    def actor(self, kind: str, name: str, label: str) -> str:
        """The short name of a participant, who stands in the diagram from now on."""
        key = f"{kind} {name}"
        if key not in self._names:
            self._names[key] = short = f"{kind[0].upper()}{len(self._names)}"
            self._labels.append(f"    participant {short} as {escaped(label)}")
        return self._names[key]

    def arrow(self, begin: str, form: str, end: str, event: HistoryEvent) -> None:
        """A message."""
        at = "" if event.at is None else datetime.fromtimestamp(event.at).astimezone().isoformat(timespec="milliseconds")[11:23]
        text = f"{at} {sentence(event)}".strip()
        self._lines.append(f"    {begin}{form}{end}: {escaped(text)}")

    def written(self) -> str:
        for event in self._history.events:
            self._draw(event)
        return "\n".join(["sequenceDiagram", *self._labels, *self._lines]) + "\n"

    def _draw(self, event: HistoryEvent) -> None:
        name = event.record.rsplit("/", 2)[0]
        if event.kind in (Kind.PUBLISHED, Kind.DELAYED, Kind.REPLAYED):
            publisher = self.actor("publisher", event.publisher, f"Publisher {event.publisher}")
            broker = self.actor("broker", _BROKER, _BROKER)
            self.arrow(publisher, "->>", broker, event)
            self._lines.append(f"    {broker}->>{self._stream(name)}: {escaped(f'committed as {event.record}')}")
        elif event.kind is Kind.CAME:
            self.arrow(self._stream(event.other.rsplit("/", 2)[0] or name), "->>", self._stream(name), event)
        elif event.kind in _STORED:
            self.arrow(self._sink(event), "->>", self._stream(name), event)
        elif not event.sink:
            self._note(self._stream(name), event)
        elif event.consumer:
            self._draw_consumer(name, event)
        else:
            self._note(self._sink(event), event)

    def _draw_consumer(self, stream: str, event: HistoryEvent) -> None:
        self._stream(stream)
        sink = self._sink(event)
        consumer = self.actor("consumer", event.consumer, f"Consumer {who(event.consumer, event.pid)}")
        if event.kind in _TO_CONSUMER:
            self.arrow(sink, "->>", consumer, event)
        elif event.kind in _LOST:
            self.arrow(consumer, "--x", sink, event)
        elif event.kind in _FROM_CONSUMER:
            self.arrow(consumer, "->>", sink, event)
        elif event.kind is Kind.RELEASED:
            self.arrow(consumer, "-->>", sink, event)
        else:
            self._note(sink, event)

    def _note(self, actor: str, event: HistoryEvent) -> None:
        self._lines.append(f"    Note over {actor}: {escaped(sentence(event))}")

    def _stream(self, name: str) -> str:
        return self.actor("stream", name, f"stream {name}")

    def _sink(self, event: HistoryEvent) -> str:
        return self.actor("sink", event.sink, f"sink {event.sink}")


def mermaid(history: History) -> str:
    """The sequence diagram of a biography: text that mermaid draws. Payloads are not in it; labels are escaped."""
    return _Diagram(history).written()

"""What was written to the logs since the last look: file, byte, and the line, as `jq` takes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dq.log.layout import Layout


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a log.

    Attributes:
        path: of its file.
        byte: where in the file it begins.
        text: without its newline.
    """

    path: Path
    byte: int
    text: str

    @property
    def of_sink(self) -> bool:
        """Whether it is a note of a sink, and no record."""
        return "sinks" in self.path.parts


class NewLines:
    """Looks at the logs of one data directory.

    Args:
        root: the data directory.
    """

    def __init__(self, root: Path) -> None:
        self._layout = Layout(root)
        self._seen: dict[Path, int] = {}

    def take(self) -> list[Line]:
        """The lines that are new, those of streams first, each file from where the last look ended."""
        lines: list[Line] = []
        for part in (self._layout.streams, self._layout.sinks):
            for path in sorted(part.rglob("*.jsonl")):
                lines += self._of(path)
        return lines

    def _of(self, path: Path) -> list[Line]:
        place = self._seen.get(path, 0)
        with path.open("rb") as file:
            file.seek(place)
            content = file.read()
        lines = []
        for raw in content[: content.rfind(b"\n") + 1].splitlines(keepends=True):
            lines.append(Line(path, place, raw.decode(errors="replace").rstrip("\n")))
            place += len(raw)
        self._seen[path] = place
        return lines

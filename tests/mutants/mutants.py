"""dq broken on purpose, one promise at a time: which lines are changed into what, and which tests have to notice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"


@dataclass(frozen=True)
class Mutant:
    """One way to break dq.

    Attributes:
        name: what is broken.
        file: below `src/dq`.
        before, after: the text that is replaced; it stands in the file once.
        tests: what is run; one of them must fail.
    """

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]

    def apply(self, source: Path = SOURCE) -> str:
        """The broken text of the file. Fails where the file does not have the text just once."""
        text = (source / "dq" / self.file).read_text()
        found = text.count(self.before)
        assert found == 1, f"{self.name}: {self.file} has the text {found} times: {self.before!r}"
        return text.replace(self.before, self.after)


MUTANTS = [
    Mutant(
        "answered before the sync",
        "log/bucket_log.py",
        "            if flush:\n                self._flush(lambda: self._files.fdatasync(fd))\n",
        "            if flush and not position:\n                self._flush(lambda: self._files.fdatasync(fd))\n",
        ("tests/log/test_power_cuts.py",),
    ),
    Mutant(
        "no directory sync",
        "log/bucket_log.py",
        "                self._flush(lambda: self._files.sync_directory(self._directory))\n        finally:",
        "                pass\n        finally:",
        ("tests/log/test_power_cuts.py",),
    ),
    Mutant(
        "a failed sync is tried again",
        "log/bucket_log.py",
        "        except OSError as error:\n            # Never again:",
        "        except OSError:\n            act()\n        except ZeroDivisionError as error:\n            # Never again:",
        ("tests/log/test_bucket_log.py", "tests/log/test_durability.py"),
    ),
    Mutant(
        "the checksum is not compared",
        "log/scan.py",
        """            if not begins(b',"crc":"%08x"}\\n' % computed, newline - _TO_SUFFIX):""",
        """            if not begins(b',"crc":"', newline - _TO_SUFFIX):""",
        ("tests/log/test_spoiled_logs.py",),
    ),
    Mutant(
        "the writer's lock is let go",
        "broker/publisher_broker.py",
        "        self._catalog.open()\n",
        "        self._lock.release()\n        self._catalog.open()\n",
        ("tests/processes/test_failures.py",),
    ),
    Mutant(
        "settled before the dead letter is stored",
        "broker/post.py",
        "            for event in run.letters.writes(letters):\n",
        "            events = run.letters.writes(letters)\n"
        "            for letter in letters:\n"
        "                run.core.dead_letter_stored(letter.lane, letter.intent)\n"
        "            run.write_notes()\n"
        "            for event in events:\n",
        ("tests/simulation/test_simulation.py",),
    ),
    Mutant(
        "a lease is kept after the death of its consumer",
        "core/sink.py",
        "        if hand is not None and not hand.returning:\n            self._rules.lose(",
        "        if hand is None and not hand.returning:\n            self._rules.lose(",
        ("tests/core/test_sink_losses.py",),
    ),
    Mutant(
        "trimmed before it is settled",
        "log/retention.py",
        "        if segment.end > floor or not (old or freed < bytes_over):",
        "        if not (old or freed < bytes_over):",
        ("tests/log/test_retention.py",),
    ),
    Mutant(
        "the dedupe windows are emptied at a roll",
        "log/bucket_log.py",
        "self._committed_crc, self._windows.encode())",
        "self._committed_crc, {})",
        ("tests/log/test_bucket_log.py", "tests/log/test_json_backend.py"),
    ),
    Mutant(
        "read beyond the committed end",
        "log/reader.py",
        "        size = end.position if cursor.segment == end.segment else self._files.size(fd)",
        "        size = self._files.size(fd)",
        ("tests/log/test_reader.py",),
    ),
    Mutant(
        "a cursor beyond a lost end stays there",
        "core/rules.py",
        "        gone = self.book.cut_back(ledger, cursor)",
        "        gone = 0",
        ("tests/core/test_sink_cut_back.py",),
    ),
    Mutant(
        "a torn end is cut and not kept",
        "log/recovery.py",
        """        self._quarantined = self._quarantine.keep_bytes(f"{self._origin()}.{segment.first}.{good_end}", tail)\n""",
        "",
        ("tests/log/test_recovery.py",),
    ),
    Mutant(
        "a segment is left unflushed when the next one begins",
        "log/bucket_log.py",
        "        self.sync()\n        first = self.end.offset\n",
        "        first = self.end.offset\n",
        ("tests/log/test_durability.py",),
    ),
    Mutant(
        "any file is opened, also another user's or a link",
        "log/system.py",
        "OPEN_FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK",
        "OPEN_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK",
        ("tests/log/test_files.py",),
    ),
]

"""What every storage backend must do. Subclass `Conformance` in a module `test_*`, give it `opener` and `reader_of`."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from log_rig import record, records

from dq.config import LIMITS
from dq.errors import OutcomeUnknown, ProtocolError, RecordsTrimmed, RecordTooLarge, SequenceError
from dq.log.storage import Batch, End, StorageReader, StorageWriter, Stored

# The suite is run by one class a backend, each on a directory of its own: both are meant.
_SUPPRESSED = [HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]
Opener = Callable[..., StorageWriter]
ReaderOf = Callable[[End], StorageReader]
SMALL = replace(LIMITS, kept_bytes_max=4000, batch_bytes_max=1000, batch_records_max=20, dedupe_batches=4)


def publish(writer: StorageWriter, count: int, publisher: str = "ada", sequence: int | None = None, **fields: Any) -> Stored:
    first = writer.end.offset
    stored = writer.append(Batch(publisher, first if sequence is None else sequence, count, records(first, count), **fields))
    writer.commit()
    return stored


class Conformance:
    """`opener(clean=None)` opens the writer of one bucket again and again, with the limits `SMALL` and small segments."""

    def read(self, reader_of: ReaderOf, end: End, first: int = 0) -> bytes:
        reader, found = reader_of(end), b""
        while first < end.offset:
            taken = reader.read(first, 7, 300)
            assert taken.first == first
            assert taken.count > 0
            found += b"".join(taken.parts)
            first += taken.count
        reader.close()
        return found

    def test_a_new_bucket_is_empty(self, opener: Opener, reader_of: ReaderOf) -> None:
        writer = opener()
        assert writer.end == End(0, 0, 0)
        assert writer.commit() == writer.end
        assert reader_of(writer.end).read(0, 10, 1000).count == 0
        assert writer.stats().end_offset == 0

    def test_what_is_committed_is_read_in_order(self, opener: Opener, reader_of: ReaderOf) -> None:
        writer = opener()
        for sequence in range(40):
            publish(writer, 3, sequence=sequence)
        assert writer.end.offset == 120
        assert self.read(reader_of, writer.end) == records(0, 120)
        assert self.read(reader_of, writer.end, 77) == records(77, 43)

    def test_what_is_only_staged_is_not_read(self, opener: Opener, reader_of: ReaderOf) -> None:
        writer = opener()
        publish(writer, 2, sequence=0)
        writer.append(Batch("ada", 1, 1, record(2)))
        assert writer.end.offset == 2
        assert reader_of(writer.end).read(0, 100, 10_000).count == 2

    def test_many_batches_go_into_one_commit(self, opener: Opener, reader_of: ReaderOf) -> None:
        writer = opener()
        stored = [writer.append(Batch(f"p{n}", 0, 2, records(2 * n, 2))) for n in range(10)]
        assert [s.first for s in stored] == list(range(0, 20, 2))
        assert writer.commit().offset == 20
        assert self.read(reader_of, writer.end) == records(0, 20)

    def test_it_goes_on_where_it_ended(self, opener: Opener, reader_of: ReaderOf) -> None:
        for start in range(5):
            writer = opener()
            assert writer.end.offset == 12 * start
            for _ in range(4):
                publish(writer, 3, publisher=f"run{start}", sequence=(writer.end.offset - 12 * start) // 3)
            writer.close()
        assert self.read(reader_of, opener().end) == records(0, 60)

    def test_it_goes_on_after_a_clean_stop(self, opener: Opener, reader_of: ReaderOf) -> None:
        writer = opener()
        for sequence in range(30):
            publish(writer, 3, sequence=sequence)
        mark = writer.clean_mark()
        writer.close()
        again = opener(clean=mark)
        assert again.report.clean
        assert again.end == writer.end
        assert publish(again, 3, sequence=30).first == 90
        assert self.read(reader_of, again.end) == records(0, 93)

    def test_one_record_comes_even_if_it_is_larger_than_asked_for(self, opener: Opener, reader_of: ReaderOf) -> None:
        writer = opener()
        writer.append(Batch("ada", 0, 1, record(0, 3000)))
        writer.commit()
        assert b"".join(reader_of(writer.end).read(0, 10, 10).parts) == record(0, 3000)

    def test_topics_do_not_disturb(self, opener: Opener, reader_of: ReaderOf) -> None:
        writer = opener()
        publish(writer, 1, sequence=0, topics=("a", 'quo"te\n'))
        publish(writer, 1, sequence=1, topics=tuple(f"t{n}" for n in range(40)))
        writer.close()
        assert self.read(reader_of, opener().end) == records(0, 2)

    def test_what_a_batch_says_of_its_records_does_not_disturb(self, opener: Opener, reader_of: ReaderOf) -> None:
        writer = opener()
        publish(writer, 1, sequence=0, about={"for": "s", "attempts": 1})
        publish(writer, 1, sequence=1)
        writer.close()
        assert self.read(reader_of, opener().end) == records(0, 2)

    def test_a_batch_that_comes_again_stands_where_it_stood(self, opener: Opener) -> None:
        writer = opener()
        batch = Batch("ada", 0, 2, records(0, 2), again=True)
        assert writer.append(batch) == Stored(0, 2, duplicate=False)
        assert writer.append(batch) == Stored(0, 2, duplicate=True)
        writer.commit()
        assert writer.append(batch) == Stored(0, 2, duplicate=True)
        assert writer.commit().offset == 2
        writer.close()
        assert opener().append(batch) == Stored(0, 2, duplicate=True)

    @pytest.mark.parametrize(
        ("sequence", "lines", "again", "error"),
        [
            (12, records(0, 1), False, SequenceError),  # a gap
            (9, records(7, 1), True, SequenceError),  # other bytes
            (9, records(9, 2), True, SequenceError),  # another count
            (2, records(2, 1), True, OutcomeUnknown),  # too old
        ],
    )
    def test_a_number_that_does_not_follow_is_refused(
        self, opener: Opener, sequence: int, lines: bytes, again: bool, error: type[Exception]
    ) -> None:
        writer = opener()
        for number in range(10):
            publish(writer, 1, sequence=number)
        for _ in range(2):
            with pytest.raises(error):
                writer.append(Batch("ada", sequence, lines.count(b"\n"), lines, again=again))
            assert writer.staged_bytes == 0
            assert publish(writer, 1, sequence=writer.end.offset).first == writer.end.offset - 1
            writer.close()
            writer = opener()

    def test_an_unknown_publisher_may_begin_anywhere_but_not_again(self, opener: Opener) -> None:
        writer = opener()
        with pytest.raises(OutcomeUnknown):
            writer.append(Batch("eve", 5, 1, record(0), again=True))
        assert writer.append(Batch("eve", 5, 1, record(0))).first == 0
        assert writer.append(Batch("bob", 0, 1, record(1), again=True)).first == 1

    @pytest.mark.parametrize(
        ("batch", "error"),
        [
            (Batch("ada", 0, 0, b""), ProtocolError),
            (Batch("ada", 0, 1, b'{"at":1}'), ProtocolError),
            (Batch("ada", 0, 2, record(0)), ProtocolError),
            (Batch("ada", 0, 1, records(0, 2)), ProtocolError),
            (Batch("ada", 0, -1, record(0)), ProtocolError),
            (Batch("ada", -1, 1, record(0)), ProtocolError),
            (Batch("ada", 0, 1, b'{"batch":0}\n'), ProtocolError),
            (Batch("ada", 0, 2, record(0) + b'{"batch":0,"count":1}\n'), ProtocolError),
            (Batch("ada", 0, 1, b'"\0"\n'), ProtocolError),
            (Batch("a b", 0, 1, record(0)), ProtocolError),
            (Batch('a"', 0, 1, record(0)), ProtocolError),
            (Batch("", 0, 1, record(0)), ProtocolError),
            (Batch("ada", 0, 21, records(0, 21)), ProtocolError),
            (Batch("ada", 0, 2, records(0, 2, 600)), ProtocolError),
            (Batch("ada", 0, 1, record(0), topics=(3,)), ProtocolError),  # type: ignore[arg-type]
            (Batch("ada", 0, 1, record(0), topics=("t" * 20_000,)), ProtocolError),
            (Batch("ada", 0, 1, record(0, 4000)), RecordTooLarge),
        ],
    )
    def test_a_batch_that_cannot_be_is_refused_and_changes_nothing(
        self, opener: Opener, batch: Batch, error: type[Exception]
    ) -> None:
        writer = opener()
        with pytest.raises(error):
            writer.append(batch)
        assert writer.staged_bytes == 0
        assert writer.commit() == End(0, 0, 0)
        assert publish(writer, 1, sequence=0).first == 0

    def test_whole_segments_below_an_offset_are_trimmed(self, opener: Opener, reader_of: ReaderOf) -> None:
        writer = opener()
        for sequence in range(60):
            publish(writer, 3, sequence=sequence)
        before = writer.stats()
        assert before.segments > 4
        assert writer.trim(100) >= 1
        first = writer.stats().first_offset
        assert 0 < first <= 100
        assert writer.trim(100) == 0
        assert self.read(reader_of, writer.end, first) == records(first, 180 - first)
        with pytest.raises(RecordsTrimmed) as caught:
            reader_of(writer.end).read(first - 1, 1, 1000)
        assert caught.value.first == first
        writer.close()
        assert opener().stats().first_offset == first

    def test_the_last_segment_is_never_trimmed(self, opener: Opener) -> None:
        writer = opener()
        for sequence in range(60):
            publish(writer, 3, sequence=sequence)
        writer.trim(10_000)
        assert writer.stats().segments == 1
        assert writer.stats().end_offset == 180
        assert publish(writer, 1, sequence=60).first == 180

    def test_writer_and_reader_count_the_same(self, opener: Opener, reader_of: ReaderOf) -> None:
        writer = opener()
        for sequence in range(60):
            publish(writer, 3, sequence=sequence)
        writer.trim(50)
        assert reader_of(writer.end).stats() == writer.stats()

    def test_a_reader_that_nobody_tells_the_end_finds_it(self, opener: Opener, reader_of: ReaderOf) -> None:
        writer = opener()
        for sequence in range(20):
            publish(writer, 3, sequence=sequence)
        assert reader_of(End(0, 0, 0)).look().offset == writer.end.offset

    def test_all_is_flushed_after_a_flush(self, opener: Opener) -> None:
        writer = opener()
        publish(writer, 3, sequence=0)
        writer.sync()
        assert not writer.unsynced
        assert writer.synced == writer.end.offset

    def test_a_time_is_found_by_the_times_of_the_records(self, opener: Opener, reader_of: ReaderOf) -> None:
        """S3: the first record published at or after an instant; the end where none was."""
        writer, now, moments = opener(), time.time(), list[float]()
        for sequence in range(40):
            moments += [now + sequence + part / 10 for part in range(3)]
            lines = b"".join(b'{"at":%.3f,"payload":%d}\n' % (at, place) for place, at in enumerate(moments[-3:]))
            writer.append(Batch("ada", sequence, 3, lines))
            writer.commit()
        reader = reader_of(writer.end)
        # All were committed before most of them say they were published: the records' own time decides.
        assert reader.find(0.0) == 0
        assert reader.find(now - 1) == 0
        assert reader.find(now + 1e6) == 120

    def test_a_time_in_an_empty_bucket_is_its_end(self, opener: Opener, reader_of: ReaderOf) -> None:
        assert reader_of(opener().end).find(0.0) == 0

    def test_a_time_before_what_was_trimmed_is_the_first_that_is_kept(self, opener: Opener, reader_of: ReaderOf) -> None:
        writer = opener()
        for sequence in range(60):
            publish(writer, 3, sequence=sequence)
        writer.trim(100)
        assert reader_of(writer.end).find(0.0) == writer.stats().first_offset

    @settings(max_examples=25, deadline=None, suppress_health_check=_SUPPRESSED)
    @given(
        sizes=st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=40),
        wants=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 30), st.integers(1, 800)), min_size=1, max_size=20),
    )
    def test_any_read_gives_what_was_written(
        self, opener: Opener, reader_of: ReaderOf, sizes: list[tuple[int, bool]], wants: list[tuple[float, int, int]]
    ) -> None:
        writer = opener()
        start, publisher = writer.end.offset, f"p{writer.end.offset}"
        offset = start
        for sequence, (count, commit) in enumerate(sizes):
            writer.append(Batch(publisher, sequence, count, records(offset, count)))
            offset += count
            if commit:
                writer.commit()
        end = writer.commit()
        reader = reader_of(end)
        for place, count_max, bytes_max in wants:
            first = start + int(place * (end.offset - start - 1))
            taken = reader.read(first, count_max, bytes_max)
            assert 1 <= taken.count <= count_max
            assert taken.count == 1 or taken.size <= bytes_max
            assert b"".join(taken.parts) == records(first, taken.count)
        writer.close()
        reader.close()

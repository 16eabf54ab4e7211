"""All code blocks of the other system's page, but the columnar ones, as they stand there, with the imports changed and the
broker in place of its actor system. They run as a script does, in an interpreter of their own.

The page: `from pulsing.queue import write_queue, read_queue` is `from dq.aio import ...` here, `create_actor_system(...)` is
`BrokerManager(path)` or `connect(path)` by `async with`, and `pul.queue` is `dq` or `dq.aio`.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

import dq
from dq import BrokerManager
from stage import Child

HERE = Path(__file__).parent
QUICK_START = """
    import asyncio
    from dq.aio import BrokerManager
    from dq.aio import write_queue, read_queue


    async def main():
        async with BrokerManager(sys.argv[1]) as system:
            writer = await write_queue(
                system,
                topic="my_queue",
                bucket_column="user_id",
                num_buckets=4,
                batch_size=10,
            )
            reader = await read_queue(system, topic="my_queue")

            # write
            await writer.put({"user_id": "u1", "payload": "hello"})

            # read (memory + persisted are both visible)
            records = await reader.get(limit=10)
            say(records)

            # persist buffered records
            await writer.flush()


    asyncio.run(main())
"""
SYNC_WRAPPER = """
    import asyncio
    from dq.aio import connect, write_queue, read_queue

    def blocking(writer, reader):
        writer.put({"id": "1", "value": 100})
        records = reader.get(limit=10)
        writer.flush()
        say(records)

    async def main():
        async with connect(sys.argv[1]) as system:
            writer = (await write_queue(system, "my_queue")).sync()
            reader = (await read_queue(system, "my_queue")).sync()
            await asyncio.to_thread(blocking, writer, reader)
            # Note: don't call the sync wrapper inside an async function (it blocks).
            try:
                writer.put({"id": "2"})
            except Exception as error:
                say(str(error))

    asyncio.run(main())
"""
READING_MODES = """
    import asyncio
    from dq.aio import connect, read_queue

    async def main():
        async with connect(sys.argv[1]) as system:
            reader0 = await read_queue(system, "q", rank=0, world_size=2, num_buckets=4)  # [0, 2]
            reader1 = await read_queue(system, "q", rank=1, world_size=2, num_buckets=4)  # [1, 3]
            say([reader0.bucket_ids, reader1.bucket_ids])

    asyncio.run(main())
"""
MEMORY_BACKEND = """
    import asyncio
    from dq.aio import connect, read_queue, write_queue

    async def main():
        async with connect(sys.argv[1]) as system:
            writer = await write_queue(
                system,
                topic="my_queue",
                backend="memory",
            )
            await writer.put({"id": 1})
            say(await (await read_queue(system, "my_queue")).get())

    asyncio.run(main())
"""
ENHANCED_BACKEND = """
    import asyncio
    import dq
    import dq.aio
    sys.path.insert(0, sys.argv[2])
    import page_backends as pst

    dq.register_backend("persisting", pst.Persisting)

    async def main():
        async with dq.aio.connect(sys.argv[1]) as system:
            writer = await dq.aio.write_queue(
                system,
                topic="my_queue",
                backend="persisting",
                storage_path=sys.argv[3],
                backend_options={"enable_wal": True},
            )
            await writer.put({"id": 1, "deep": [None]})
            say(await (await dq.aio.read_queue(system, "my_queue")).get())

    asyncio.run(main())
"""
CUSTOM_BACKEND = """
    import asyncio
    import dq
    import dq.aio
    sys.path.insert(0, sys.argv[2])
    from page_backends import MyBackend  # the class stands in a module, where the broker finds it

    dq.register_backend("my_backend", MyBackend)

    async def main():
        async with dq.aio.connect(sys.argv[1]) as system:
            writer = await dq.aio.write_queue(system, "topic", backend="my_backend")
            await writer.put([{"id": n} for n in range(3)])
            say(sorted(record["id"] for record in await (await dq.aio.read_queue(system, "topic")).get()))

    asyncio.run(main())
"""


def said(code: str, *arguments: object) -> list[Any]:
    with Child(textwrap.dedent(code), *arguments) as child:
        lines = child.hear_rest(30)
        assert child.wait() == 0, child.errors.decode()
    assert b"Error" not in child.errors
    return lines


@pytest.fixture
def root(broker: BrokerManager) -> Path:
    """A broker's directory without the page's queues."""
    for queue in ("my_queue", "q", "topic"):
        broker.change("stream", queue, "destroy")
    return broker.root


def test_quick_start(tmp_path: Path) -> None:
    """P1, P2: "Quick start (async)"."""
    assert said(QUICK_START, tmp_path / "data") == [[{"user_id": "u1", "payload": "hello"}]]
    # and what was flushed is there for the next one
    with BrokerManager(tmp_path / "data") as broker, dq.Reader(broker, "my_queue", start="oldest") as reader:
        assert [record.payload for record in reader.get()] == [{"user_id": "u1", "payload": "hello"}]


def test_sync_wrapper(root: Path) -> None:
    """P7: "Sync wrapper", and its note."""
    records, error = said(SYNC_WRAPPER, root)
    assert records == [{"id": "1", "value": 100}]
    assert "this thread runs an event loop" in error


def test_reading_modes(root: Path) -> None:
    """P5: "Reading modes"."""
    assert said(READING_MODES, root) == [[[0, 2], [1, 3]]]


def test_memory_backend(root: Path) -> None:
    """P1: "Memory Backend"."""
    assert said(MEMORY_BACKEND, root) == [[{"id": 1}]]


def test_enhanced_backend_with_options(root: Path, tmp_path: Path) -> None:
    """P10: "Or use enhanced Persisting backend with WAL": storage_path and backend_options reach the class."""
    assert said(ENHANCED_BACKEND, root, HERE, tmp_path / "queues") == [[{"id": 1, "deep": [None]}]]
    [kept] = [path for path in (tmp_path / "queues" / "my_queue").rglob("wal-True.jsonl") if path.stat().st_size]
    assert kept.read_text() == '{"id": 1, "deep": [null]}\n'


def test_custom_backend(root: Path) -> None:
    """P10: "Custom Backends": the class with put, get and flush alone."""
    assert said(CUSTOM_BACKEND, root, HERE) == [[0, 1, 2]]


@pytest.mark.parametrize("value", ["u1", 17, ""])
def test_bucketing(value: object) -> None:
    """P4: "The bucket is chosen by md5(str(value)) % num_buckets"."""
    from hashlib import md5

    from dq.aio.queue_records import bucket_id_of

    assert bucket_id_of(value, 4) == int(md5(str(value).encode()).hexdigest(), 16) % 4

"""A client that speaks bytes: it knows the framing and nothing else of dq's own code, and says whatever it is told to."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dq import BrokerManager, Consumer, Publisher
from stage import DEADLINE_SECONDS, pids

LENGTH = struct.Struct("!I")
FRAME_BYTES_MAX = 16 * 1024 * 1024
RECORD = b'{"at":1,"payload":1}\n'


def frame(content: bytes) -> bytes:
    """A frame of the wire."""
    return LENGTH.pack(len(content)) + content


def envelope(kind: str, owner: str, body: bytes = b"", /, **fields: Any) -> bytes:
    """A frame with one event in it, well formed or not."""
    return frame(json.dumps({"type": kind, "owner": owner, **fields}).encode() + b"\n" + body)


def write(sequence: int, body: bytes = RECORD, /, count: int = 1, **fields: Any) -> bytes:
    """A WRITE frame of a publisher."""
    return envelope("WRITE", "PUBLISHER", body, bucket=0, sequence=sequence, count=count, **fields)


def new_id() -> str:
    return f"raw-{os.urandom(6).hex()}"


class Heard(dict[str, Any]):
    """An event that came: its fields, and `body`."""

    body: bytes = b""


class RawClient:
    """A connection to the door of a broker, as a stranger."""

    def __init__(self, root: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(DEADLINE_SECONDS)
        self.sock.connect(str(root / "manager.sock"))
        self._rest = b""

    # --- registered ------------------------------------------------------------------------------------------------

    @classmethod
    def registered(cls, root: Path, hello: bytes) -> RawClient:
        """A client that was let in."""
        client = cls(root)
        client.send(hello)
        answer = client.hear()
        assert answer["type"] == "ACK", answer
        return client

    @classmethod
    def publisher(cls, root: Path, stream: str, id: str | None = None, **fields: Any) -> RawClient:
        return cls.registered(
            root, envelope("REGISTER", "PUBLISHER", id=id or new_id(), pid=os.getpid(), stream=stream, create=True, **fields)
        )

    @classmethod
    def consumer(cls, root: Path, stream: str, sink: str, id: str | None = None, **fields: Any) -> RawClient:
        hello = {"id": id or new_id(), "pid": os.getpid(), "sink": sink, "streams": [stream], "create": True, **fields}
        return cls.registered(root, envelope("REGISTER", "CONSUMER", **hello))

    @classmethod
    def listener(cls, root: Path, *channels: str, id: str | None = None, **fields: Any) -> RawClient:
        hello = {"id": id or new_id(), "pid": os.getpid(), "channels": list(channels), **fields}
        return cls.registered(root, envelope("REGISTER", "LISTENER", **hello))

    @classmethod
    def watcher(cls, root: Path, process: str) -> RawClient:
        return cls.registered(root, envelope("REGISTER", "WATCHER", id=new_id(), pid=os.getpid(), process=process))

    @classmethod
    def reader(cls, root: Path, stream: str, id: str | None = None, **fields: Any) -> RawClient:
        """A reader of a stream, which is made if it is missing."""
        with cls.publisher(root, stream):
            hello = {"id": id or new_id(), "pid": os.getpid(), "streams": [stream], **fields}
            return cls.registered(root, envelope("REGISTER", "READER", **hello))

    @classmethod
    def client(cls, root: Path) -> RawClient:
        return cls.registered(root, envelope("REGISTER", "CLIENT", id=new_id(), pid=os.getpid()))

    # --- bytes -----------------------------------------------------------------------------------------------------

    def send(self, content: bytes) -> None:
        self.sock.sendall(content)

    def say(self, kind: str, owner: str, body: bytes = b"", /, **fields: Any) -> None:
        self.send(envelope(kind, owner, body, **fields))

    def finish(self) -> None:
        """Says that no more comes, and still listens."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def hear(self, seconds: float = DEADLINE_SECONDS) -> Heard:
        """The next event; fails when none comes in time, or the connection ends."""
        heard = self._next(time.monotonic() + seconds)
        assert heard is not None, "the connection ended"
        return heard

    def hear_end(self, seconds: float = DEADLINE_SECONDS) -> list[Heard]:
        """All that comes until the broker closes; fails when it does not in time."""
        deadline, heard = time.monotonic() + seconds, []
        while (event := self._next(deadline)) is not None:
            heard.append(event)
        return heard

    def hear_or_end(self, seconds: float = DEADLINE_SECONDS) -> Heard | None:
        """The next event, or None when the connection ends; fails when neither comes in time."""
        return self._next(time.monotonic() + seconds)

    def hear_nothing(self, seconds: float) -> bool:
        """Whether nothing comes for so long, and the connection stays."""
        self.sock.settimeout(seconds)
        try:
            return not self._rest and self.sock.recv(1, socket.MSG_PEEK) is None
        except TimeoutError:
            return True
        finally:
            self.sock.settimeout(DEADLINE_SECONDS)

    def _next(self, deadline: float) -> Heard | None:
        head = self._take(LENGTH.size, deadline)
        if head is None:
            return None
        content = self._take(LENGTH.unpack(head)[0], deadline)
        assert content is not None, "the broker closed within a frame"
        line, _, body = content.partition(b"\n")
        heard = Heard(json.loads(line))
        heard.body = body
        return heard

    def _take(self, count: int, deadline: float) -> bytes | None:
        while len(self._rest) < count:
            left = deadline - time.monotonic()
            assert left > 0, "the broker neither answered nor closed in time"
            self.sock.settimeout(left)
            try:
                chunk = self.sock.recv(1 << 16)
            except (ConnectionResetError, BrokenPipeError):
                chunk = b""
            except TimeoutError:
                continue
            if not chunk:
                return None
            self._rest += chunk
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Neighbours:
    """A publisher and a consumer that work on the same broker and must notice nothing."""

    def __init__(self, broker: BrokerManager) -> None:
        self.broker = broker
        self._publisher = Publisher(broker, "neighbours")
        self._consumer = Consumer(broker, "neighbours", sink="neighbours", idle_timeout=DEADLINE_SECONDS)
        self._tasks = iter(self._consumer)
        self._sent = 0
        self.round_trip()
        self.before = self.processes()

    def round_trip(self) -> float:
        """Publishes a record and consumes it; returns the seconds that took."""
        self._sent += 1
        began = time.monotonic()
        receipt = self._publisher.publish(self._sent)
        task = next(self._tasks)
        task.ack(wait=True)
        took = time.monotonic() - began
        assert (task.id, task.payload, task.attempt) == (receipt.id, self._sent, 1)
        return took

    def processes(self) -> tuple[int, int, int]:
        """The pids of the manager and of both brokers."""
        return (self.broker.stats()["pid"], *pids(self.broker))

    def close(self) -> None:
        self._publisher.close()
        self._consumer.close()


@contextlib.contextmanager
def unharmed(neighbours: Neighbours) -> Iterator[None]:
    """Within it anything may be said to the broker: the same processes serve the same neighbours after it."""
    before = neighbours.before
    yield
    neighbours.round_trip()
    assert neighbours.processes() == before


def stored(broker: BrokerManager, stream: str) -> int:
    """How many records stand in a stream; 0 for one that does not exist."""
    return broker.stats()["publisher_broker"]["streams"].get(stream, {}).get("records", 0)


def memory_bytes(pid: int, line: str = "VmRSS") -> int:
    """What a process has in memory, or with "VmHWM" the most it ever had."""
    for text in Path(f"/proc/{pid}/status").read_text().splitlines():
        if text.startswith(line):
            return int(text.split()[1]) * 1024
    pytest.fail(f"process {pid} has no {line}")


def open_descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def processor_seconds(pid: int) -> float:
    """What a process has used of the processors."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

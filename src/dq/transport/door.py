"""The door: the one AF_UNIX socket by which clients come in, how it is found, and how descriptors are handed on.

The socket lies in the data directory, which is 0700, and is 0600 itself; the peer's uid is checked besides. A path of an
AF_UNIX socket ends at 107 bytes: where the data directory's is longer, the socket lies in a private directory of the
user's own and a file in its place, `manager.sock`, holds its path.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import stat
import struct
import sys
import tempfile
from pathlib import Path
from typing import IO

from dq.errors import BrokerError, BrokerNotRunning
from dq.private import private_directory

SOCKET_NAME = "manager.sock"
_PATH_MAX = 107
_UCRED = struct.Struct("3i")
# What a datagram takes at once without fail. A longer event goes in a file without a name, and this is said in its place.
_HANDOVER_BYTES_MAX = 64 * 1024
_ASIDE = b"\0"


class Door:
    """The socket by which clients come in, and the names by which they find it.

    Attributes:
        sock: it listens, and does not block.

    Raises:
        BrokerError: the socket cannot be made; the message says why.
    """

    def __init__(self, root: Path) -> None:
        place = root / SOCKET_NAME
        self.sock, path = _bind(root, place)
        if path != place:
            place.write_text(f"{path}\n", encoding="utf-8")
            place.chmod(0o600)
        self._names = {name: _mark(name) for name in {place, path}}

    def _is_ours(self, name: Path) -> bool:
        with contextlib.suppress(OSError):
            return _mark(name) == self._names[name]
        return False

    @property
    def in_place(self) -> bool:
        """Whether clients find it: nobody has removed or replaced its files."""
        return all(map(self._is_ours, self._names))

    def close(self) -> None:
        """Closes it, and removes its files as far as they are its own; safe twice."""
        self.sock.close()
        for name in filter(self._is_ours, self._names):
            with contextlib.suppress(OSError):
                name.unlink()


def _mark(name: Path) -> tuple[int, int, int]:
    """By what a file is known again. The inode alone is not enough: its number may go to the next file of that name."""
    found = os.lstat(name)
    return found.st_dev, found.st_ino, found.st_ctime_ns


def _bind(root: Path, place: Path) -> tuple[socket.socket, Path]:
    """Binds and listens. The manager's lock must be held: a socket file found here is a dead manager's."""
    with contextlib.suppress(FileNotFoundError):
        place.unlink()
    path = place
    if len(os.fsencode(place)) > _PATH_MAX:
        base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
        path = private_directory(Path(base)) / f"dq-{hashlib.sha256(os.fsencode(root)).hexdigest()[:16]}.sock"
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
    door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)  # the socket's mode is made at bind, so there is no moment in which it is wider
    try:
        door.bind(os.fspath(path))
    except OSError as error:
        door.close()
        raise BrokerError(f"no socket can be made at {path}: {error.strerror}; is the disk full or read-only?") from error
    finally:
        os.umask(mask)
    door.listen(512)
    door.setblocking(False)
    return door, path


def door_path(root: Path) -> Path:
    """Where the socket of the manager of `root` is.

    Raises:
        BrokerNotRunning: there is none.
    """
    place = root / SOCKET_NAME
    try:
        found = place.lstat()
        if stat.S_ISREG(found.st_mode):
            return Path(place.read_text(encoding="utf-8").rstrip("\n"))
    except FileNotFoundError:
        raise not_running(root) from None
    return place


def not_running(root: Path) -> BrokerNotRunning:
    """The error that says how to start one."""
    if not os.path.isdir(root):
        return BrokerNotRunning(
            f"no broker serves {root}, and there is no such directory: name the one you mean, as by --data or DQ_DIR; or have "
            f"it made by `dq serve {root}`, BrokerManager({str(root)!r}) or connect(..., start=True)"
        )
    return BrokerNotRunning(
        f"no broker serves {root}: start one with BrokerManager({str(root)!r}), connect(..., start=True) "
        f"or `python -m dq.main serve {root}`"
    )


def knock(root: Path) -> socket.socket:
    """Connects to the manager of `root`; a blocking socket.

    Raises:
        BrokerNotRunning: nobody listens.
        BrokerError: the door belongs to somebody else.
    """
    path = door_path(root)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(os.fspath(path))
    except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError):
        sock.close()
        raise not_running(root) from None
    except OSError as error:
        sock.close()
        raise BrokerError(f"the broker of {root} cannot be reached: {error.strerror}") from error
    return sock


def peer_uid(sock: socket.socket) -> int:
    """The uid of the process at the other end."""
    if sys.platform == "linux":
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        return int(_UCRED.unpack(raw)[1])
    return _peer_uid_elsewhere(sock)


def _peer_uid_elsewhere(sock: socket.socket) -> int:
    """macOS and the BSDs: LOCAL_PEERCRED gives a `struct xucred`, version and uid first."""
    raw = sock.getsockopt(0, 1, 76)  # SOL_LOCAL, LOCAL_PEERCRED
    return int(struct.unpack_from("II", raw)[1])


def handover_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends by which descriptors go from the manager to a broker, each with its event, whole or not at all."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def hand_over(sock: socket.socket, event: bytes, descriptor: int) -> None:
    """Sends an event with a descriptor. The caller closes its copy.

    Raises:
        OSError: the other process is gone, or its buffer is full (BlockingIOError).
    """
    if len(event) <= _HANDOVER_BYTES_MAX:
        socket.send_fds(sock, [event], [descriptor])
        return
    with _nameless_file() as aside:
        aside.write(event)
        aside.flush()
        socket.send_fds(sock, [_ASIDE], [descriptor, aside.fileno()])


def _nameless_file() -> IO[bytes]:
    """In memory where the system has such files."""
    if sys.platform == "linux":
        return open(os.memfd_create("dq-handover"), "w+b")
    return tempfile.TemporaryFile()


def take_over(sock: socket.socket) -> tuple[bytes, socket.socket] | None:
    """Takes the next descriptor and its event; None when none waits.

    Raises:
        EOFError: the manager is gone.
    """
    try:
        event, descriptors, _, _ = socket.recv_fds(sock, _HANDOVER_BYTES_MAX, 2, socket.MSG_CMSG_CLOEXEC)
    except (BlockingIOError, InterruptedError):
        return None
    except OSError as error:
        raise EOFError from error
    if not event:
        raise EOFError
    is_aside = event == _ASIDE
    if len(descriptors) < 1 + is_aside:  # out of descriptors: the kernel dropped it, and its client comes again
        for descriptor in descriptors:
            os.close(descriptor)
        return None
    if is_aside:
        with open(descriptors[1], "rb") as aside:
            aside.seek(0)
            event = aside.read()
    return event, socket.socket(fileno=descriptors[0])

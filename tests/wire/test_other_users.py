"""Another user of the host is kept out: by the modes of the files, and where these were opened up, by who he is."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from raw_client import Neighbours

from dq import BrokerManager
from stage import Child

NOBODY = 65_534
# It becomes somebody else after all is imported that it needs, for he may not even read the sources.
STRANGER = """
import socket, struct, time
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
sock = socket.socket(socket.AF_UNIX)
sock.settimeout(8)
try:
    sock.connect(sys.argv[1])
except OSError as error:
    say("refused", type(error).__name__)
    sys.exit()
line = json.dumps({"type": "REGISTER", "owner": "CLIENT", "id": "stranger", "pid": os.getpid()}).encode() + b"\\n"
try:
    sock.sendall(struct.pack("!I", len(line)) + line)
    said = sock.recv(65536).decode()
except OSError as error:
    said = ""
say("connected", said)
"""


@pytest.fixture
def root() -> Iterator[Path]:
    """A data directory whose parents anybody may enter, unlike pytest's own."""
    if os.geteuid():
        if os.environ.get("CI"):
            pytest.fail("under CI this runs as root: it has to become another user")
        pytest.skip("it becomes another user, and that needs root")
    with tempfile.TemporaryDirectory(prefix="dq-open-") as directory:
        os.chmod(directory, 0o755)
        yield Path(directory) / "queue_data"


def knock_as(uid: int, socket_path: Path) -> list[str]:
    with Child(STRANGER, socket_path, uid) as child:
        return child.hear()


@pytest.mark.root
def test_another_user_cannot_reach_the_door(root):
    """T21, bad input 53: the directory is 0700 and the socket 0600, whatever the umask; nothing below is wider."""
    mask = os.umask(0)
    try:
        broker = BrokerManager(root)
    finally:
        os.umask(mask)
    with broker:
        neighbours = Neighbours(broker)
        assert knock_as(NOBODY, root / "manager.sock") == ["refused", "PermissionError"]
        modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in [root, *root.rglob("*")]}
        assert modes[root] == 0o700
        assert modes[root / "manager.sock"] == 0o600
        assert {path: oct(mode) for path, mode in modes.items() if mode & 0o077} == {}
        neighbours.round_trip()
        neighbours.close()


@pytest.mark.root
def test_another_user_who_reaches_the_door_is_not_let_in(root):
    """T21: directory and socket were opened up by hand; who knocks is asked for by the kernel, and gets no answer."""
    with BrokerManager(root) as broker:
        neighbours = Neighbours(broker)
        root.chmod(0o755)
        (root / "manager.sock").chmod(0o666)
        assert knock_as(NOBODY, root / "manager.sock") == ["connected", ""]
        answer = knock_as(os.getuid(), root / "manager.sock")
        assert answer[0] == "connected"
        assert '"type":"ACK"' in answer[1]
        neighbours.round_trip()
        assert neighbours.processes() == neighbours.before
        neighbours.close()

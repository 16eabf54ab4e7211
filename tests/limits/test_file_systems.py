"""On what file system a data directory lies: told from what `/proc/self/mountinfo` says, without any real mount."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dq import LogError
from dq.log.file_system import ALLOW_NETWORK, Mount, check_file_system, mount_of, read_mounts

PLAIN = "25 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw,errors=remount-ro"


def at(point: Path | str, kind: str, source: str = "host:/export", options: str = "rw") -> str:
    """A second line, for what is mounted at `point`."""
    escaped = str(point).replace("\\", "\\134").replace(" ", "\\040").replace("\t", "\\011").replace("\n", "\\012")
    return f"{PLAIN}\n36 25 0:31 / {escaped} rw,relatime shared:7 master:1 - {kind} {source} {options}"


NETWORK = ["nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "fuse.sshfs", "fuse.glusterfs", "fuse.rclone", "lustre"]


@pytest.mark.parametrize("kind", NETWORK)
def test_a_file_system_of_a_network_is_refused_unless_it_is_asked_for(tmp_path, kind):
    """bad input 54: refused by default, with what to do; a warning with DQ_ALLOW_NETWORK_FS=1."""
    text = at(tmp_path, kind)
    for environ in ({}, {ALLOW_NETWORK: "0"}, {ALLOW_NETWORK: ""}):
        with pytest.raises(LogError) as refused:
            check_file_system(tmp_path / "q", text, environ)
        for told in (kind, "host:/export", f"{ALLOW_NETWORK}=1", str(tmp_path / "q")):
            assert told in str(refused.value)
    warning = check_file_system(tmp_path / "q", text, {ALLOW_NETWORK: "1"})
    assert warning is not None
    assert kind in warning


@pytest.mark.parametrize(
    ("kind", "options"),
    [("tmpfs", "rw,size=24m"), ("ramfs", "rw")],
)
def test_a_file_system_in_memory_is_warned_of(tmp_path, kind, options):
    """bad input 54: tmpfs."""
    warning = check_file_system(tmp_path / "q", at(tmp_path, kind, "none", options), {})
    assert warning is not None
    assert "restart of the machine loses" in warning
    assert kind in warning


def test_an_overlay_is_as_lasting_as_what_it_lies_upon(tmp_path):
    """bad input 54: an overlay whose upper directory is on a tmpfs, and one on a disk."""
    overlay = at(tmp_path, "overlay", "overlay", "rw,lowerdir=/lower,upperdir=/run/upper,workdir=/run/work")
    on_memory = f"{overlay}\n40 25 0:40 / /run rw - tmpfs tmpfs rw"
    assert "overlay on tmpfs" in (check_file_system(tmp_path / "q", on_memory, {}) or "")
    assert check_file_system(tmp_path / "q", overlay, {}) is None


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "fuse.ntfs-3g", "overlay", "virtiofs"])
def test_a_disk_of_this_machine_is_not_spoken_of(tmp_path, kind):
    assert check_file_system(tmp_path / "q", at(tmp_path, kind), {}) is None


def test_the_deepest_mount_counts_and_of_several_at_one_place_the_last(tmp_path):
    text = f"{at(tmp_path, 'nfs')}\n37 36 0:32 / {tmp_path} rw - ext4 /dev/sda rw"
    assert check_file_system(tmp_path / "q", text, {}) is None
    deeper = f"{text}\n38 37 0:33 / {tmp_path}/q rw - nfs host:/b rw"
    with pytest.raises(LogError):
        check_file_system(tmp_path / "q", deeper, {})
    assert check_file_system(tmp_path / "qq", deeper, {}) is None


def test_a_link_is_followed_to_where_the_bytes_are(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "near").symlink_to(tmp_path / "far")
    with pytest.raises(LogError):
        check_file_system(tmp_path / "near" / "q", at(tmp_path / "far", "nfs"), {})


@pytest.mark.parametrize("name", ["a b", "a\tb", "a\nb", "a\\b", "caf\u00e9", "\\040"])
def test_a_mount_point_with_odd_letters_is_found(tmp_path, name):
    mounts = read_mounts(at(tmp_path / name, "nfs"))
    assert mounts[-1] == Mount(tmp_path / name, "nfs", "host:/export", {"rw": ""})
    assert mount_of(tmp_path / name / "q", mounts) == mounts[-1]


@pytest.mark.parametrize("text", ["", "\n\n", "nonsense", "1 2 3 - nfs", "36 25 0:31 / / rw -", " - ", "a b c d e f - "])
def test_lines_that_are_none_are_left_out(tmp_path, text):
    assert check_file_system(tmp_path, text, {}) is None


def test_this_machine_is_read_without_an_error(tmp_path):
    found = mount_of(tmp_path, read_mounts(Path("/proc/self/mountinfo").read_text()))
    assert found is not None
    assert found.kind


def test_the_manager_asks_at_its_start(tmp_path):
    """bad input 54: the refusal reaches whoever starts a broker, and nothing is left but the directory."""
    code = (
        "import sys; from pathlib import Path; import dq.log.file_system as fs\n"
        "read, fs.Path = fs.Path, lambda *parts: Fake() if parts[0].startswith('/proc') else read(*parts)\n"
        f"class Fake:\n    def read_text(self, *_): return {at(tmp_path, 'nfs4')!r}\n"
        "from dq.main import main; sys.exit(main(['serve', sys.argv[1]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "q")], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 74, done.stderr
    assert "nfs4" in done.stderr
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "q").iterdir()) == []

"""On what kind of file system a data directory lies: one that keeps what dq promises, one that forgets, or one of a network."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dq.errors import LogError

ALLOW_NETWORK = "DQ_ALLOW_NETWORK_FS"
# Locks that another host does not see, flushes that end at a cache of this one, files that change under a reader.
_NETWORK = frozenset(
    [
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "davfs",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs3",
        "nfs4",
        "ocfs2",
        "orangefs",
        "pvfs2",
        "smb2",
        "smb3",
        "smbfs",
    ]
)
_NETWORK_BY_FUSE = frozenset(
    [
        "beegfs",
        "ceph",
        "cephfs",
        "davfs",
        "davfs2",
        "gcsfuse",
        "glusterfs",
        "gvfsd-fuse",
        "mfs",
        "moosefs",
        "rclone",
        "s3fs",
        "seaweedfs",
        "sshfs",
        "curlftpfs",
    ]
)
_FORGETFUL = frozenset({"tmpfs", "ramfs"})
_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of `/proc/self/mountinfo`.

    Attributes:
        point: where it is mounted.
        kind: the type of its file system.
        source: what is mounted: a device, a host and its path.
        options: of the file system, by name.
    """

    point: Path
    kind: str
    source: str
    options: Mapping[str, str]

    @property
    def is_of_a_network(self) -> bool:
        """Whether other hosts may write to it."""
        kind, _, by_fuse = self.kind.partition(".")
        return kind in _NETWORK or (kind == "fuse" and by_fuse in _NETWORK_BY_FUSE)


def read_mounts(text: str) -> list[Mount]:
    """The mounts that `/proc/self/mountinfo` names, in its order; a line that is not one is left out.

    ::

        36 35 98:0 /subtree /mount/point rw,noatime shared:1 - ext4 /dev/root rw,errors=continue
                            ^ point      ^ any number of fields ^ kind ^ source ^ options
    """
    mounts = []
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        places, kinds = before.split(" "), after.split(" ")
        if separator and len(places) >= 6 and len(kinds) >= 2:
            options = (option.partition("=") for option in ",".join(kinds[2:]).split(","))
            named = {name: _plain(value) for name, _, value in options}
            mounts.append(Mount(Path(_plain(places[4])), kinds[0], _plain(kinds[1]), named))
    return mounts


def _plain(text: str) -> str:
    """A space is written there as \\040, and so on, byte by byte."""
    raw = _ESCAPE.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), text.encode("utf-8", "surrogateescape"))
    return raw.decode("utf-8", "surrogateescape")


def mount_of(path: Path, mounts: list[Mount]) -> Mount | None:
    """The mount on which `path` lies, which has no links in it: the deepest, and of several at one place the last."""
    holding = [mount for mount in mounts if mount.point == path or mount.point in path.parents]
    return max(reversed(holding), key=lambda mount: len(mount.point.parts), default=None)


def check_file_system(root: Path, mountinfo: str | None = None, environ: Mapping[str, str] = os.environ) -> str | None:
    """Looks where the data directory `root` lies; None where all is well, else what is to be said as a warning.

    Args:
        root: the data directory, which exists.
        mountinfo: what `/proc/self/mountinfo` says; None reads it. A system without one is not judged.
        environ: the environment.

    Raises:
        LogError: it lies on a file system of a network, and DQ_ALLOW_NETWORK_FS=1 is not set.
    """
    if mountinfo is None:
        try:
            mountinfo = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
        except OSError:
            return None
    mounts = read_mounts(mountinfo)
    found = mount_of(Path(os.path.realpath(root)), mounts)
    if found is None:
        return None
    if found.is_of_a_network:
        return _judge_network(root, found, environ)
    if found.kind in _FORGETFUL or _lies_upon(found, mounts) in _FORGETFUL:
        kind = found.kind if found.kind in _FORGETFUL else f"{found.kind} on tmpfs"
        return (
            f"{root} lies in memory ({kind} at {found.point}): a restart of the machine loses all of it; "
            "choose a directory on a disk if that matters"
        )
    return None


def _judge_network(root: Path, found: Mount, environ: Mapping[str, str]) -> str:
    what = f"{root} lies on a file system of a network ({found.kind} from {found.source} at {found.point})"
    why = "where neither the locks nor the flushes that dq relies on can be trusted"
    if environ.get(ALLOW_NETWORK) == "1":
        return f"{what}, {why}; it is used since {ALLOW_NETWORK}=1 is set"
    raise LogError(f"{what}, {why}: choose a directory on a local disk, or set {ALLOW_NETWORK}=1 to use it all the same")


def _lies_upon(mount: Mount, mounts: list[Mount]) -> str:
    """The kind of file system on which an overlay keeps what is written to it."""
    upper = mount.options.get("upperdir") if mount.kind == "overlay" else None
    below = mount_of(Path(upper), [other for other in mounts if other is not mount]) if upper else None
    return below.kind if below is not None else ""

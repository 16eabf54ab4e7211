"""Small disks for tests: mounted below a test's own directory, and gone with it."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)


@contextlib.contextmanager
def mounted(point: Path, *arguments: object) -> Iterator[Path]:
    """Mounts at `point`. Where that is not allowed the test is skipped with the reason, but never under CI=true."""
    point.mkdir()
    done = run("mount", *arguments, point)
    if done.returncode:
        reason = f"this test mounts a disk of its own, and that needs root: {done.stderr.strip()}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    try:
        yield point
    finally:
        run("umount", "-l", point)


@contextlib.contextmanager
def tmpfs(point: Path, size: str) -> Iterator[Path]:
    with mounted(point, "-t", "tmpfs", "-o", f"size={size}", "tmpfs") as disk:
        yield disk


@contextlib.contextmanager
def ext4(point: Path, size: str, *options: object) -> Iterator[Path]:
    """An ext4 in a file beside `point`; `options` are of mkfs.ext4."""
    image = point.with_suffix(".img")
    for command in (("truncate", "-s", size, image), ("mkfs.ext4", "-q", "-F", "-m", "0", *options, image)):
        done = run(*command)
        assert done.returncode == 0, done.stderr
    with mounted(point, "-o", "loop,errors=remount-ro", image) as disk:
        yield disk
        assert image.exists()


def litter(root: Path) -> list[Path]:
    """What a half-done write would leave behind."""
    return [path for path in root.rglob("*") if path.suffix in (".tmp", ".torn", ".making", ".gone")]


def fill(directory: Path) -> Path:
    """Takes all room that is left on a disk, to the last byte, by one file."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass
    return filler


def take_inodes(directory: Path) -> list[Path]:
    """Takes every inode that is left on a disk."""
    taken: list[Path] = []
    with contextlib.suppress(OSError):
        while True:
            path = directory / f"inode-{len(taken)}"
            path.touch(exist_ok=False)
            taken.append(path)
    return taken

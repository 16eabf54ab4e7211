"""Lives of a log that end by kill or power cut: every start has all that was ever confirmed, and nothing else."""

from __future__ import annotations

import random
from pathlib import Path

from log_rig import Rig, record
from sim_files import MemoryFiles

from dq.log.bucket_log import BucketLog
from dq.log.storage import Batch


def test_any_kill_or_power_cut_leaves_a_log_that_starts_with_all_that_was_confirmed(tmp_path: Path) -> None:
    """Commits of one to six batches, cut at any moment, sectors written or not by chance, several lives long."""
    for seed in range(400):
        chance = random.Random(seed)
        files = MemoryFiles()
        for path in (tmp_path, tmp_path / "streams", tmp_path / "streams/emails", tmp_path / "streams/emails/0"):
            files.add(path, None)
        written: list[bytes] = []
        confirmed = 0
        for life in range(4):
            rig = Rig(tmp_path, files)
            log = rig.open(segment_bytes=2000, epoch=life + 1)
            assert confirmed <= log.end.offset <= len(written), seed
            del written[log.end.offset :]
            assert rig.read_all(log.end) == b"".join(written), seed
            confirmed = log.end.offset  # a resend of what was found is answered from now on
            for commit in range(chance.randint(1, 8)):
                for batch in range(chance.randint(1, 6)):
                    lines = [record(chance.getrandbits(40), chance.choice((0, 30, 700))) for _ in range(chance.randint(1, 4))]
                    log.append(Batch(f"p{life}.{commit}.{batch}", 0, len(lines), b"".join(lines)))
                    written += lines
                if chance.random() < 0.2:
                    break_at(log, chance)
                    break
                log.commit()
                confirmed = log.end.offset
            if chance.random() < 0.6:  # else it was only killed, and the system still knows what the disk does not
                files = files.power_cut(chance)


class PowerCutError(Exception):
    pass


def break_at(log: BucketLog, chance: random.Random) -> None:
    """Stops a commit at its flush or at that of the directory, as a power cut would."""
    files, method = log._files, chance.choice(("fdatasync", "sync_directory"))

    def stop(_: object) -> None:
        raise PowerCutError

    setattr(files, method, stop)
    try:
        log.commit()
    except PowerCutError:
        pass
    finally:
        delattr(files, method)

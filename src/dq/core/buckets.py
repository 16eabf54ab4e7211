"""Which bucket a batch goes to: by its key, or in turn where it has none."""

from __future__ import annotations

from hashlib import md5

_CACHED_KEYS_MAX = 65_536
"""Keys whose bucket is remembered: 1.05 us for an md5 becomes 0.1 us, for some 8 MB at the most."""


def bucket_of(key: object, buckets: int) -> int:
    """The bucket of `key` among `buckets`. It is part of the format: it may never change, in no language.

    md5 spreads any key evenly and is everywhere at hand; it guards nothing here.
    """
    return int(md5(str(key).encode(), usedforsecurity=False).hexdigest(), 16) % buckets


class BucketRouter:
    """Chooses buckets for one publisher.

    Args:
        buckets: how many the stream has; 1 or more.
        start: the bucket that `next()` gives first. Publishers that begin at different ones do not march in step.
    """

    __slots__ = ("_buckets", "_known", "_turn")

    def __init__(self, buckets: int, start: int = 0) -> None:
        self._buckets = buckets
        self._turn = start % buckets
        self._known: dict[str, int] = {}

    def of(self, key: object) -> int:
        """The bucket of a key."""
        text = key if type(key) is str else str(key)
        bucket = self._known.get(text)
        if bucket is None:
            if len(self._known) >= _CACHED_KEYS_MAX:
                # Emptied, not trimmed: an order of use would cost each hit more than the rare refill does.
                self._known.clear()
            bucket = self._known[text] = bucket_of(text, self._buckets)
        return bucket

    def next(self) -> int:
        """The bucket of the next batch without a key: each in turn."""
        bucket = self._turn
        self._turn = (bucket + 1) % self._buckets
        return bucket

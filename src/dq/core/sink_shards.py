"""The side of a sink that its streams see: which shards it is over, how far they are committed, and what of them is gone."""

from __future__ import annotations

from collections.abc import Sequence

from dq.core.leases import Shard
from dq.core.ranges import Range
from dq.core.rules import Rules, ShardStart
from dq.core.states import IllegalStep
from dq.errors import InUse


class SinkShards:
    """What a sink is told of its shards.

    Args:
        rules: of the sink.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._book = rules.book
        self._offers = rules.offers

    def add_shard(
        self, shard: Shard, start: int, uuid: str, epoch: int, starts: Sequence[ShardStart] = (), lane: int | None = None
    ) -> int:
        """Takes a shard in: at `start`, if it is new to this sink or of another making (`uuid`) than the one known.

        Args:
            starts: where the log ended when its last epochs began. A cursor beyond goes back to there, if that may be.
            lane: the priority of its records; None: as it was, or 0. It is not noted, so it is to be told after a restart.

        Returns:
            How many records that were given out are gone.

        Raises:
            Damaged: the log ends before what this sink was given of it, which nothing allows; nothing has changed.
        """
        ledger = self._book.ledgers.get(shard)
        if ledger is None or ledger.uuid != uuid:
            if ledger is not None:
                self._rules.forget_shard(ledger)
            self._book.cursor(shard, start, uuid, epoch).lane = lane or 0
            self._rules.freed_many()
            return 0
        if lane is not None:
            ledger.lane = lane
        gone = self._rules.begin_epoch(ledger, epoch, starts) if epoch > ledger.epoch else 0
        if ledger.closed:
            ledger.closed = False
            self._offers.wake(ledger)
        return gone

    def close_shard(self, shard: Shard) -> None:
        """Offers nothing of a shard, since its log cannot be read, until `add_shard` says that it can be again."""
        ledger = self._book.ledgers.get(shard)
        if ledger is not None:
            ledger.closed = True

    def committed(self, shard: Shard, end: int) -> None:
        """All below `end` is committed. It is a hint: an older one, or of another shard, is passed over."""
        ledger = self._book.ledgers.get(shard)
        if ledger is not None and end > ledger.end:
            ledger.end = end
            if ledger.removed is not None:
                self._rules.sweep(ledger)
            self._offers.wake(ledger)

    def trimmed(self, shard: Shard, first: int) -> int:
        """The log of a shard begins at `first` now. Returns how many unsettled records were missed."""
        ledger = self._book.ledgers.get(shard)
        return self._rules.trim(ledger, first) if ledger is not None else 0

    def removed(self, shard: Shard, ranges: Sequence[Range]) -> int:
        """Records were taken out of a stream: those that wait, now or later, are never delivered. One in a hand stays there,
        and is not delivered again. To be told anew, in part or as a whole, whenever the stream was opened: after
        `add_shard`. Returns how many records that settled now."""
        ledger = self._book.ledgers.get(shard)
        return self._rules.removed(ledger, ranges) if ledger is not None else 0

    def seek(self, shard: Shard, offset: int) -> None:
        """The cursor of a shard stands at `offset` now, which is not beyond its end: all from there on is delivered, settled
        before or not, and nothing below. What consumers have in hand of it is void.

        Raises:
            InUse: a dead letter of the shard is on its way; nothing has changed.
        """
        ledger = self._book.ledgers.get(shard)
        if ledger is None:
            raise IllegalStep(f"there is no {shard} to be sought in; nothing was changed")
        if ledger.dying:
            raise InUse(
                f"{len(ledger.dying)} records of {shard[0]}/{shard[1]} are becoming dead letters: seek when they are stored"
            )
        self._rules.seek(ledger, offset)

    def forget_stream(self, stream: str) -> None:
        """The sink is over a stream no more. What consumers have in hand of it is void; dead letters on their way go on. One
        that it is not over changes nothing."""
        ledgers = [ledger for shard, ledger in self._book.ledgers.items() if shard[0] == stream]
        for ledger in ledgers:
            self._rules.forget_shard(ledger)
        if ledgers:
            self._book.forget_stream(stream)
            self._rules.freed_many()

    def floors(self) -> dict[Shard, int]:
        """For each shard the offset below which all is settled."""
        return {shard: ledger.floor for shard, ledger in self._book.ledgers.items()}

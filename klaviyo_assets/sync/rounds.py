"""A full refresh in two rounds: everything, then what changed while everything was read.

What belongs here: the order of the two. What does not: reading (`pool`, `walk`). Windows that are
read side by side miss a record that moves from one that is still to be read to one that was read
already, as any change of it does. What was missed must have changed since the first answer, so the
second round reads from there on, by one worker and in the order of the cursor: whatever changes
now moves ahead of it.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from types import MappingProxyType

from klaviyo_assets.model.stream import Slice
from klaviyo_assets.sync.pool import Pool
from klaviyo_assets.sync.walk import SETTLED, Piece


class Rounds:
    """Two pools, one after the other; slices end with the second."""

    vanished = 0
    unanswered: Mapping[str, int] = MappingProxyType({})
    """Windows have no parent records that could be gone, or get no answer."""

    def __init__(self, first: Pool, second: Callable[[datetime], Pool]) -> None:
        """Take the first; `second` starts the pool that reads from a moment (UTC) on."""
        self._pool = first
        self._second = second
        self._is_over = False
        self.last_round_at: datetime | None = None
        """When the second round began, by its first answer, UTC."""

    def items(self) -> Iterator[Piece | Slice]:
        """Yield the pieces of both, and each slice once.

        Raises:
            KlaviyoAssetsError: what a worker met, after everything that was read before it.
        """
        began: datetime | None = None
        for item in self._pool.items():
            if isinstance(item, Slice):
                continue
            began = item.at if began is None else min(began, item.at)
            yield item
        if began is None or self._is_over:
            return
        self._pool = self._second(began - SETTLED)
        for item in self._pool.items():
            if self.last_round_at is None and isinstance(item, Piece):
                self.last_round_at = item.at
            yield item

    def close(self) -> None:
        """Tell the workers to stop after their page."""
        self._is_over = True
        self._pool.close()

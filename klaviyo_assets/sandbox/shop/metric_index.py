"""Which regular events have a metric, found fast: one byte per event, in blocks made when needed.

Two million events take two megabytes, and only those ever asked for by metric.
"""

from collections.abc import Iterator

from klaviyo_assets.sandbox.shop.metrics import metric_table
from klaviyo_assets.sandbox.shop.seeds import mix

BLOCK = 1 << 15


class MetricIndex:
    """Metrics of regular events by index."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.table = metric_table()
        self.blocks: dict[int, bytes] = {}

    def block(self, number: int) -> bytes:
        """The metrics of `BLOCK` neighbouring events, one byte each."""
        kept = self.blocks.get(number)
        if kept is None:
            seed, table = self.seed, self.table
            first = number * BLOCK
            kept = bytes([table[mix(seed, k) & 1023] for k in range(first, first + BLOCK)])
            self.blocks[number] = kept
        return kept

    def matching(self, metric: int, low: int, high: int, *, descending: bool) -> Iterator[int]:
        """Indices of [low, high) with that metric, in order; none for a negative metric."""
        if metric < 0:
            return
        wanted = bytes([metric])
        numbers = range(low // BLOCK, -(-high // BLOCK))
        for number in reversed(numbers) if descending else numbers:
            first = number * BLOCK
            places = found_in(self.block(number), wanted, max(0, low - first), high - first)
            yield from (first + place for place in (places[::-1] if descending else places))


def found_in(block: bytes, wanted: bytes, start: int, end: int) -> list[int]:
    """Places of a byte within [start, end) of a block."""
    places: list[int] = []
    place = block.find(wanted, start, end)
    while place >= 0:
        places.append(place)
        place = block.find(wanted, place + 1, end)
    return places

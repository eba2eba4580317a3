"""A collection as the page server keeps it: evenly spread over time, or in bursts.

What belongs here: positions, bodies, and the same bodies packed with gzip. What does not: what a
record says (`records`), HTTP (`pages`).

Records are serialized and packed by the hundred before the first request, as far as memory allows;
a page is then a concatenation, and only its checksum has to be worked out. Each packed piece stands
alone, because a full flush ends it.
Source: RFC 1951, and RFC 1952, section 2.2.
"""

import struct
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import NamedTuple

from klaviyo_assets_tests.benchmarks.records import templates

FIRST = datetime(2015, 11, 1, tzinfo=UTC)
"""So early that ten million events of an account have happened: a mark never passes today."""

YEAR = int(timedelta(days=365).total_seconds())
DAY = 86_400

HUNDRED = 100
KEPT_AT_MOST = 250_000
"""Records that are serialized beforehand, some 450 MB of events; others when they are asked for."""

GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
LAST_BLOCK = b"\x03\x00"
START = b'{"data":['
TIMES = [b"T%02d:%02d:%02d+00:00" % (at // 3600, at // 60 % 60, at % 60) for at in range(DAY)]


class Piece(NamedTuple):
    """Some bytes of a body, and as deflate blocks where packing is asked for."""

    plain: bytes
    packed: bytes


class Burst(NamedTuple):
    """Records spread evenly over some seconds, from a second after `FIRST` on."""

    records: int
    start: int
    seconds: int = 1

    def moments(self) -> Iterator[int]:
        """Yield the second of each record."""
        for number in range(self.records):
            yield self.start + number * self.seconds // self.records


class Shelf:
    """`count` records of one collection, `a_year` of them in a year from `FIRST` on.

    Where `bursts` are given, these are all the records there are.
    """

    def __init__(  # noqa: PLR0913 - what the records are like, all by name
        self,
        kind: str,
        *,
        count: int,
        a_year: int,
        packs: bool = False,
        huge_every: int = 0,
        bursts: Iterable[Burst] = (),
    ) -> None:
        """Serialize the records; `packs`: with gzip as well."""
        self.moments = array("q", sorted(each for burst in bursts for each in burst.moments()))
        count = len(self.moments) or count
        self.count, self.a_year, self.packs = count, max(1, a_year), packs
        self.templates = templates(kind, huge_every=huge_every)
        kept = 0 if count > KEPT_AT_MOST or huge_every else count // HUNDRED
        self.hundreds = [self.piece(at * HUNDRED, (at + 1) * HUNDRED) for at in range(kept)]

    @property
    def end(self) -> datetime:
        """Return when the last record happened."""
        return FIRST + timedelta(seconds=self.second(self.count - 1) if self.count else 0)

    def second(self, position: int) -> int:
        """Return when a record happened, in seconds since `FIRST`."""
        return self.moments[position] if self.moments else position * YEAR // self.a_year

    def position(self, second: int) -> int:
        """Return the first position that happened at or after `second`."""
        if self.moments:
            return bisect_left(self.moments, second)
        return min(self.count, max(0, -(-second * self.a_year // YEAR)))

    def body(self, first: int, last: int, following: bytes, *, packed: bool) -> bytes:
        """Return the body with the records of positions `[first, last)`; `following` is JSON."""
        end = b'],"links":{"self":"x","next":' + following + b',"prev":null}}'
        pieces = [
            Piece(START, deflated(START) if packed else b""),
            *self.pieces(first, last),
            Piece(end, deflated(end) if packed else b""),
        ]
        whole = b"".join(piece.plain for piece in pieces)
        if not packed:
            return whole
        sums = struct.pack("<II", zlib.crc32(whole), len(whole) & 0xFFFFFFFF)
        blocks = (piece.packed for piece in pieces)
        return b"".join((GZIP_HEADER, *blocks, LAST_BLOCK, sums))

    def pieces(self, first: int, last: int) -> Iterator[Piece]:
        """Yield the records, commas between them, in as few pieces as were prepared."""
        comma = Piece(b",", deflated(b",") if self.packs else b"")
        position = first
        while position < last:
            at = position // HUNDRED
            end = min(last, (at + 1) * HUNDRED)
            if position > first:
                yield comma
            is_kept = end - position == HUNDRED and at < len(self.hundreds)
            yield self.hundreds[at] if is_kept else self.piece(position, end)
            position = end

    def piece(self, first: int, last: int) -> Piece:
        """Return records of positions `[first, last)` with commas between them."""
        text = b",".join([self.record(position) for position in range(first, last)])
        return Piece(text, deflated(text) if self.packs else b"")

    def record(self, position: int) -> bytes:
        """Return one record."""
        one = self.templates[position % len(self.templates)]
        days, seconds = divmod(self.second(position), DAY)
        return b"%b%011d%b%b%b%b" % (
            one.head,
            position,
            one.middle,
            day_text(days),
            TIMES[seconds],
            one.tail,
        )


@cache
def day_text(days: int) -> bytes:
    """Return a day, so many after `FIRST`, as Klaviyo writes it."""
    return (FIRST + timedelta(days=days)).date().isoformat().encode()


def deflated(text: bytes) -> bytes:
    """Return deflate blocks that stand alone and end on a whole byte."""
    packing = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packing.compress(text) + packing.flush(zlib.Z_FULL_FLUSH)

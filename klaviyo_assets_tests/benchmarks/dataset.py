"""A collection as the page server keeps it: evenly spread over time, or in bursts.

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

from klaviyo_assets_tests.benchmarks.records import build_templates

FIRST_TIME = datetime(2015, 11, 1, tzinfo=UTC)
"""So early that ten million events of an account have happened: a mark never passes today."""

YEAR_SECONDS = int(timedelta(days=365).total_seconds())
DAY_SECONDS = 86_400

BLOCK_RECORDS = 100
MAX_CACHED_RECORDS = 250_000
"""Records that are serialized beforehand, some 450 MB of events; others when they are asked for."""

GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
LAST_DEFLATE_BLOCK = b"\x03\x00"
BODY_START = b'{"data":['
TIME_TEXTS = [
    b"T%02d:%02d:%02d+00:00" % (at // 3600, at // 60 % 60, at % 60) for at in range(DAY_SECONDS)
]


class BodyPart(NamedTuple):
    """Some bytes of a body, and as deflate blocks where packing is requested."""

    plain: bytes
    packed: bytes


class Burst(NamedTuple):
    """Records spread evenly over some seconds, from a second after `FIRST_TIME` on."""

    records: int
    start: int
    seconds: int = 1

    def record_seconds(self) -> Iterator[int]:
        """Yield the second of each record."""
        for number in range(self.records):
            yield self.start + number * self.seconds // self.records


class Dataset:
    """`count` records of one collection, `records_per_year` of them in a year from `FIRST_TIME` on.

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
        """Serialize the records; `uses_gzip`: with gzip as well."""
        self.moments = array(
            "q", sorted(each for burst in bursts for each in burst.record_seconds())
        )
        count = len(self.moments) or count
        self.count, self.records_per_year, self.uses_gzip = count, max(1, a_year), packs
        self.templates = build_templates(kind, huge_every=huge_every)
        cached_blocks = 0 if count > MAX_CACHED_RECORDS or huge_every else count // BLOCK_RECORDS
        self.hundreds = [
            self.build_body_part(at * BLOCK_RECORDS, (at + 1) * BLOCK_RECORDS)
            for at in range(cached_blocks)
        ]

    @property
    def end(self) -> datetime:
        """Return when the last record happened."""
        return FIRST_TIME + timedelta(
            seconds=self.second_of_position(self.count - 1) if self.count else 0
        )

    def second_of_position(self, position: int) -> int:
        """Return when a record happened, in seconds since `FIRST_TIME`."""
        return (
            self.moments[position]
            if self.moments
            else position * YEAR_SECONDS // self.records_per_year
        )

    def position_of_second(self, second: int) -> int:
        """Return the first position that happened at or after `second_of_position`."""
        if self.moments:
            return bisect_left(self.moments, second)
        return min(self.count, max(0, -(-second * self.records_per_year // YEAR_SECONDS)))

    def build_body(self, first: int, last: int, next_link: bytes, *, packed: bool) -> bytes:
        """Return the body with the records of positions `[first, last)`; `next_link` is JSON."""
        end = b'],"links":{"self":"x","next":' + next_link + b',"prev":null}}'
        pieces = [
            BodyPart(BODY_START, deflate_block(BODY_START) if packed else b""),
            *self.body_parts(first, last),
            BodyPart(end, deflate_block(end) if packed else b""),
        ]
        whole = b"".join(piece.plain for piece in pieces)
        if not packed:
            return whole
        sums = struct.pack("<II", zlib.crc32(whole), len(whole) & 0xFFFFFFFF)
        blocks = (piece.packed for piece in pieces)
        return b"".join((GZIP_HEADER, *blocks, LAST_DEFLATE_BLOCK, sums))

    def body_parts(self, first: int, last: int) -> Iterator[BodyPart]:
        """Yield the records, commas between them, in as few pieces as were prepared."""
        comma = BodyPart(b",", deflate_block(b",") if self.uses_gzip else b"")
        position = first
        while position < last:
            at = position // BLOCK_RECORDS
            end = min(last, (at + 1) * BLOCK_RECORDS)
            if position > first:
                yield comma
            is_kept = end - position == BLOCK_RECORDS and at < len(self.hundreds)
            yield self.hundreds[at] if is_kept else self.build_body_part(position, end)
            position = end

    def build_body_part(self, first: int, last: int) -> BodyPart:
        """Return records of positions `[first, last)` with commas between them."""
        text = b",".join([self.build_record(position) for position in range(first, last)])
        return BodyPart(text, deflate_block(text) if self.uses_gzip else b"")

    def build_record(self, position: int) -> bytes:
        """Return one record."""
        one = self.templates[position % len(self.templates)]
        days, seconds = divmod(self.second_of_position(position), DAY_SECONDS)
        return b"%b%011d%b%b%b%b" % (
            one.head,
            position,
            one.middle,
            day_text(days),
            TIME_TEXTS[seconds],
            one.tail,
        )


@cache
def day_text(days: int) -> bytes:
    """Return a day, so many after `FIRST_TIME`, as Klaviyo writes it."""
    return (FIRST_TIME + timedelta(days=days)).date().isoformat().encode()


def deflate_block(text: bytes) -> bytes:
    """Return deflate blocks that stand alone and end on a whole byte."""
    packing = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packing.compress(text) + packing.flush(zlib.Z_FULL_FLUSH)

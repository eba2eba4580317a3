"""Prices a first read of streams: requests, the least time that the rate limits allow, and disk.

Klaviyo tells no totals, so the numbers of records are those of the lake, or somebody's guess.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil

from klaviyo_assets.model.stream import Children, Collection, Detail, Stream
from klaviyo_assets.settings import Settings

TYPICAL_ROW_BYTES = 300
"""Disk of a row where no row is stored to measure: about that of an event of a shop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstReadPrice:
    """What reading a stream from the beginning takes; None where its size is not known.

    `records_per_request`: of a full page, 1 where each record takes a request.
    """

    stream: str
    records: int | None
    records_per_request: int | None
    requests: int | None
    seconds: float | None
    disk_bytes: int | None


def price_first_read(
    stream: Stream,
    *,
    records: Mapping[str, int],
    row_bytes: Mapping[str, float],
    settings: Settings,
) -> FirstReadPrice:
    """Return the price of a stream, given how many records each stream has, as far as known.

    `row_bytes`: bytes on disk for each row, by stream, where that was measured.
    """
    own = records.get(stream.name)
    requests = _count_requests(stream, own, records)
    steady = _steady_limit(stream, settings)
    disk = None if own is None else round(own * row_bytes.get(stream.name, TYPICAL_ROW_BYTES))
    return FirstReadPrice(
        stream=stream.name,
        records=own,
        records_per_request=_records_per_request(stream),
        requests=requests,
        seconds=None if requests is None or steady is None else 60 * requests / steady,
        disk_bytes=disk,
    )


def _records_per_request(stream: Stream) -> int | None:
    """Return how many records a full page has; None where all come at once, or none is asked."""
    match stream.source:
        case Collection(page_size=size) | Children(page_size=size):
            return size
        case Detail():
            return 1
        case _:
            return None


def _count_requests(stream: Stream, own: int | None, records: Mapping[str, int]) -> int | None:
    """Return the requests of a first read: at least one for each slice, or for each parent."""
    match stream.source:
        case Collection(page_size=None, slices=slices):
            return len(slices)
        case Collection(page_size=size, slices=slices):
            return None if own is None or size is None else max(len(slices), ceil(own / size))
        case Detail(parent=parent):
            return records.get(parent)
        case Children(parent=parent, page_size=size):
            parents = records.get(parent)
            if parents is None:
                return None
            return max(parents, ceil((own or 0) / size)) if size else parents
        case _:
            return 0


def _steady_limit(stream: Stream, settings: Settings) -> float | None:
    """Return our requests a minute: the least that any bucket of the stream allows."""
    buckets = stream.rate_limit_buckets(excluded_fields=settings.excluded_additional_fields)
    share = settings.rate_limit_share * settings.rate_limit_scale
    return min((each.tier.steady * share for each in buckets), default=None)


def least_seconds(prices: Iterable[FirstReadPrice], streams: Mapping[str, Stream]) -> float:
    """Return the least time of all, read side by side: streams of one bucket share its limit."""
    by_bucket: dict[str, float] = {}
    for each in prices:
        for bucket in streams[each.stream].rate_limit_buckets():
            by_bucket[bucket.name] = by_bucket.get(bucket.name, 0) + (each.seconds or 0)
    return max(by_bucket.values(), default=0)

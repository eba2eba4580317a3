"""How long a page takes: `python -m klaviyo_assets_tests.unit.decode.measure`.

A script, not a test: time depends on the machine and on what else it does. It prints the best and
the middle of many runs, in milliseconds, for pages of the sizes that Klaviyo sends.
"""

import json
import sys
from datetime import UTC, datetime
from statistics import median
from time import perf_counter

from klaviyo_assets.decode.decoder import PageDecoder
from klaviyo_assets.model.column import FieldPath
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.streams import STREAMS
from klaviyo_assets_tests.unit.decode.samples import (
    Record,
    build_record,
    resource_identifier,
    with_relationships,
)

RUNS = 200
MOMENT = "2026-01-31T10:00:00+00:00"
VALUE_BY_TYPE = {
    "string": "SUBSCRIBED",
    "timestamp": MOMENT,
    "boolean": True,
    "number": 46.94,
    "ids": ["x"],
}
ITEM = {
    "ProductID": 300164,
    "SKU": "SHT-LIN-180",
    "ProductName": "Leintuch, groß",
    "ItemPrice": 99.0,
}


def build_event(number: int) -> Record:
    """Return an event of 1.8 kB, one in ten with an attribution."""
    found = build_record(
        f"3FRVFn{number:05}",
        timestamp=1_769_853_600 + number,
        event_properties={
            "$value": number / 8,
            "$event_id": str(number),
            "Items": [ITEM] * 9,
            "$extra": {"user_agent": "Mozilla/5.0 (X11; Linux x86_64) " * 6, "consent": None},
        },
        datetime=MOMENT,
        uuid=f"6489bb80-c8b1-11f0-8001-{number:012}",
    )
    return with_relationships(
        found,
        profile=resource_identifier("profile", "01KB5TJ8R4W8KTENDJT6KNBCPA"),
        metric=resource_identifier("metric", "WdIxyK"),
        attributions=[resource_identifier("attribution", f"{number:032}")]
        if number % 10 == 0
        else [],
    )


def build_attribution(number: int) -> Record:
    """Return what the event of that number is credited to."""
    campaign = resource_identifier("campaign", "01KB5TJ8R4W8KTENDJT6KNBCPB")
    message = resource_identifier("campaign-message", "01KB5TJ8R4W8KTENDJT6KNBCPC")
    return with_relationships(
        resource_identifier("attribution", f"{number:032}"), campaign=campaign, message=message
    )


def build_profile(number: int) -> Record:
    """Return a profile with every declared attribute, of 3.4 kB."""
    attributes: Record = {}
    for column in STREAMS["profiles"].columns:
        if isinstance(column.source, FieldPath):
            *above, name = column.source.path.split(".")
            here = attributes
            for each in above:
                here = here.setdefault(each, {})
            here[name] = VALUE_BY_TYPE.get(column.type, {"shop": "x" * 40})
    found = build_record(f"01KB5TJ8R4W8KTENDJT6{number:06}", **attributes)
    links = {"links": {"self": "https://a.klaviyo.com/api/profiles/x/relationships/lists/"}}
    names = ("lists", "segments", "push-tokens", "conversations")
    return found | {"relationships": dict.fromkeys(names, links)}


def measure_decoding(stream: Stream, page: Record) -> None:
    """Print what decoding the page costs."""
    body = json.dumps(page, ensure_ascii=False, separators=(",", ":")).encode()
    decoder, taken, fast = PageDecoder(stream), list[float](), 0
    for _ in range(RUNS):
        start = perf_counter()
        fast += decoder.decode(body, synced_at=datetime(2026, 7, 15, tzinfo=UTC)).is_fast
        taken.append(1000 * (perf_counter() - start))
    records, size = len(page["data"]), len(body) / 1e6
    sys.stdout.write(
        f"{stream.name}: {records} records, {size:.2f} MB: best {min(taken):.2f} ms, "
        f"middle {median(taken):.2f} ms, {fast} of {RUNS} at once\n"
    )


def main() -> None:
    """Measure a page of events and one of profiles."""
    numbers = range(1000)
    measure_decoding(
        STREAMS["events"],
        {
            "data": [build_event(each) for each in numbers],
            "included": [build_attribution(each) for each in numbers[::10]],
            "links": {"self": "https://a.klaviyo.com/api/events", "next": None},
        },
    )
    measure_decoding(
        STREAMS["profiles"],
        {
            "data": [build_profile(each) for each in range(100)],
            "links": {"self": "https://a.klaviyo.com/api/profiles", "next": None},
        },
    )


if __name__ == "__main__":
    main()

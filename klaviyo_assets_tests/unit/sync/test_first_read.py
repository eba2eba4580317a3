"""The price of a first read, by the arithmetic of pages, parents and rate limits."""

import pytest

from klaviyo_assets.settings import Settings
from klaviyo_assets.streams import STREAMS
from klaviyo_assets.sync.plan import FirstReadPrice, least_seconds, price_first_read

SETTINGS = Settings(rate_limit_share=1.0)


def price(stream: str, **records: int) -> FirstReadPrice:
    """Return the price of a stream, given the records of some."""
    return price_first_read(STREAMS[stream], records=records, row_bytes={}, settings=SETTINGS)


@pytest.mark.parametrize(
    ("stream", "records", "requests", "seconds"),
    [
        # A page has 1,000 events, and 3,500 requests a minute are allowed.
        ("events", {"events": 1_000_000}, 1000, 60 * 1000 / 3500),
        ("events", {"events": 0}, 1, 60 / 3500),
        # 100 profiles a page; predictive analytics allow 150 requests a minute.
        ("profiles", {"profiles": 15_000}, 150, 60),
        # A request for each list, of which 15 a minute are allowed.
        ("lists_detailed", {"lists": 30}, 30, 120),
        ("lists_detailed", {}, None, None),
        ("profiles", {}, None, None),
    ],
)
def test_a_price_is_pages_or_parents(
    stream: str, records: dict[str, int], requests: int | None, seconds: float | None
) -> None:
    """Requests are full pages, or one for each parent; what is not known stays unknown."""
    found = price(stream, **records)
    assert found.requests == requests
    assert found.seconds == (None if seconds is None else pytest.approx(seconds))


def test_members_take_a_request_for_each_list_at_least() -> None:
    """Small lists cost a request each, large ones their pages."""
    assert price("list_members", lists=50, list_members=100).requests == 50
    assert price("list_members", lists=2, list_members=100_000).requests == 1000


def test_streams_of_one_bucket_wait_for_each_other() -> None:
    """Read side by side, the slowest bucket decides; streams of one path share theirs."""
    both = [
        price("global_exclusions", global_exclusions=75_000),
        price("profiles", profiles=75_000),
        price("events", events=1_000_000),
    ]
    alone = [each.seconds or 0 for each in both]
    assert least_seconds(both, STREAMS) == pytest.approx(alone[0] + alone[1])

"""Page sizes give way to failures and to weight, and come back."""

from dataclasses import replace

import pytest

from klaviyo_assets.api.requests import requested_page_size, set_page_size
from klaviyo_assets.api.retry import MAX_PAGE_BYTES, MIN_PAGES_BEFORE_GROWTH, AdaptivePageSize
from klaviyo_assets.errors import (
    BrokenBodyError,
    ConnectionLostError,
    KlaviyoAssetsError,
    LargeBodyError,
    RateLimitError,
    ServerError,
)
from klaviyo_assets_tests.unit.api.samples import build_request

FULL = replace(build_request(), target="/api/events?sort=datetime&page%5Bsize%5D=1000&include=x")
LINK = replace(build_request(), target="/api/events?page[size]=1000&page%5Bcursor%5D=abc")
LIGHT, HEAVY = 2_000_000, 100_000_000


def size_of(size: AdaptivePageSize) -> int | None:
    """Return how many records are requested for the next page."""
    return requested_page_size(size.resize(FULL))


def test_the_size_is_changed_in_place() -> None:
    """First pages and next links, however their brackets are written; nothing else of them."""
    assert set_page_size(FULL, 250).target == FULL.target.replace("1000", "250")
    assert set_page_size(LINK, 1).target == LINK.target.replace("1000", "1")
    bare = replace(FULL, target="/api/metrics?fields=page%5Bsize%5D")
    assert requested_page_size(bare) is None
    assert set_page_size(bare, 5) == bare


@pytest.mark.parametrize(
    ("error", "requested"),
    [
        (ServerError("504"), [1000, 1000, 250, 62, 15]),
        (ConnectionLostError("reset"), [1000, 1000, 250, 62, 15]),
        (BrokenBodyError("no JSON"), [1000, 1000, 250, 62, 15]),
        (LargeBodyError("too large"), [250, 62, 15, 3, 1]),
        (RateLimitError("429"), [1000] * 5),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_page_that_fails_is_requested_smaller(
    error: KlaviyoAssetsError, requested: list[int]
) -> None:
    """Within the tries of one page: after two hiccups, or at once where it is too large."""
    size, request = AdaptivePageSize(1000), FULL
    found: list[int | None] = []
    for failures in range(1, 6):
        request = size.shrink_after_failure(request, error, failures)
        found.append(requested_page_size(request))
    assert found == requested
    assert size_of(size) == requested[-1]


def test_a_size_that_failed_is_tried_again_after_a_while_only() -> None:
    """Up by doubling, to below the size that failed; then after sixteen good pages, and thirty."""
    size = AdaptivePageSize(1000)

    def good_pages_until_full() -> int:
        for pages in range(1, 200):
            size.record_page(records=100, size=10_000)
            if size_of(size) == 1000:
                return pages
        return 0

    size.shrink_after_failure(FULL, ServerError("504"), 3)
    assert size_of(size) == 250
    size.record_page(records=250, size=10_000)
    assert size_of(size) == 500
    assert good_pages_until_full() == MIN_PAGES_BEFORE_GROWTH - 1
    size.shrink_after_failure(FULL, ServerError("504"), 3)
    assert good_pages_until_full() == 2 * MIN_PAGES_BEFORE_GROWTH


def test_heavy_pages_become_smaller_and_light_ones_full_again() -> None:
    """By what their records weighed of late; a page that is light as a whole is left alone."""
    size = AdaptivePageSize(1000)
    size.record_page(records=1000, size=LIGHT)
    size.record_page(records=2, size=300_000)
    assert size_of(size) == 1000
    size.record_page(records=1000, size=HEAVY)
    assert size_of(size) == MAX_PAGE_BYTES // 100_000
    for _ in range(10):
        size.record_page(records=100, size=200_000)
    assert size_of(size) == 1000


def test_a_size_that_is_refused_is_halved_and_not_requested_again() -> None:
    """Whatever pages follow; refusals of what others have left already halve nothing."""
    size = AdaptivePageSize(1000)
    assert size.step_down(FULL)
    assert size.step_down(FULL)
    assert size_of(size) == 500
    assert size.is_reduced
    for _ in range(1000):
        size.record_page(records=100, size=10_000)
    assert size_of(size) == 500
    refused = 0
    while size.step_down(size.resize(FULL)):
        refused += 1
    assert refused <= 10
    assert size_of(size) == 1


def test_an_endpoint_without_a_size_is_left_alone() -> None:
    """An endpoint without a page size gets no size parameter."""
    size = AdaptivePageSize()
    size.record_page(records=200, size=HEAVY)
    assert size.resize(FULL) is FULL
    assert not size.step_down(FULL)
    assert size.shrink_after_failure(FULL, LargeBodyError("too large"), 1) is FULL


def test_links_that_may_not_change_are_followed_as_they_come() -> None:
    """A cursor lost over a changed size is recognized once; from then on links are unchanged."""
    size = AdaptivePageSize(1000)
    assert not size.note_lost_cursor(LINK)
    size.shrink_after_failure(LINK, ServerError("504"), 3)
    assert requested_page_size(size.resize(LINK)) == 250
    assert size.note_lost_cursor(LINK)
    assert size.resize(LINK) is LINK
    assert size_of(size) == 250
    assert not size.note_lost_cursor(LINK)
    assert size.shrink_after_failure(LINK, ServerError("504"), 3) is LINK

"""Page sizes give way to failures and to weight, and come back."""

from dataclasses import replace

import pytest

from klaviyo_assets.api.page_size import FIRST_PATIENCE, PAGE_BYTES, PageSize
from klaviyo_assets.api.protocol import page_size_of, with_page_size
from klaviyo_assets.errors import (
    BrokenBodyError,
    ConnectionLostError,
    KlaviyoAssetsError,
    LargeBodyError,
    RateLimitError,
    ServerError,
)
from klaviyo_assets_tests.unit.api.samples import request_of

FULL = replace(
    request_of(), url="http://127.0.0.1:9/api/events?sort=datetime&page%5Bsize%5D=1000&include=x"
)
LINK = replace(
    request_of(), url="http://127.0.0.1:9/api/events?page[size]=1000&page%5Bcursor%5D=abc"
)
LIGHT, HEAVY = 2_000_000, 100_000_000


def size_of(size: PageSize) -> int | None:
    """Return how many records the next page is asked for."""
    return page_size_of(size.fitted(FULL))


def test_the_size_is_changed_in_place() -> None:
    """First pages and next links, however their brackets are written; nothing else of them."""
    assert with_page_size(FULL, 250).url == FULL.url.replace("1000", "250")
    assert with_page_size(LINK, 1).url == LINK.url.replace("1000", "1")
    bare = replace(FULL, url="http://127.0.0.1:9/api/metrics?fields=page%5Bsize%5D")
    assert page_size_of(bare) is None
    assert with_page_size(bare, 5) == bare


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (ServerError("504"), [1000, 1000, 250, 62, 15]),
        (ConnectionLostError("reset"), [1000, 1000, 250, 62, 15]),
        (BrokenBodyError("no JSON"), [1000, 1000, 250, 62, 15]),
        (LargeBodyError("too large"), [250, 62, 15, 3, 1]),
        (RateLimitError("429"), [1000] * 5),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_page_that_fails_is_asked_for_smaller(
    error: KlaviyoAssetsError, asked: list[int]
) -> None:
    """Within the tries of one page: after two hiccups, or at once where it is too large."""
    size, request = PageSize(1000), FULL
    found: list[int | None] = []
    for failures in range(1, 6):
        request = size.smaller(request, error, failures)
        found.append(page_size_of(request))
    assert found == asked
    assert size_of(size) == asked[-1]


def test_a_size_that_failed_is_tried_again_after_a_while_only() -> None:
    """Up by doubling, to below the size that failed; then after sixteen good pages, and thirty."""
    size = PageSize(1000)

    def good_pages_until_full() -> int:
        for pages in range(1, 200):
            size.note(records=100, size=10_000)
            if size_of(size) == 1000:
                return pages
        return 0

    size.smaller(FULL, ServerError("504"), 3)
    assert size_of(size) == 250
    size.note(records=250, size=10_000)
    assert size_of(size) == 500
    assert good_pages_until_full() == FIRST_PATIENCE - 1
    size.smaller(FULL, ServerError("504"), 3)
    assert good_pages_until_full() == 2 * FIRST_PATIENCE


def test_heavy_pages_become_smaller_and_light_ones_full_again() -> None:
    """By what their records weighed of late; a page that is light as a whole is left alone."""
    size = PageSize(1000)
    size.note(records=1000, size=LIGHT)
    size.note(records=2, size=300_000)
    assert size_of(size) == 1000
    size.note(records=1000, size=HEAVY)
    assert size_of(size) == PAGE_BYTES // 100_000
    for _ in range(10):
        size.note(records=100, size=200_000)
    assert size_of(size) == 1000


def test_a_size_that_is_refused_is_halved_and_not_asked_for_again() -> None:
    """Whatever pages follow; refusals of what others have left already halve nothing."""
    size = PageSize(1000)
    assert size.step_down(FULL)
    assert size.step_down(FULL)
    assert size_of(size) == 500
    assert size.is_smaller
    for _ in range(1000):
        size.note(records=100, size=10_000)
    assert size_of(size) == 500
    refused = 0
    while size.step_down(size.fitted(FULL)):
        refused += 1
    assert refused <= 10
    assert size_of(size) == 1


def test_an_endpoint_without_a_size_is_left_alone() -> None:
    """Nothing is known of it, and nothing is asked."""
    size = PageSize()
    size.note(records=200, size=HEAVY)
    assert size.fitted(FULL) is FULL
    assert not size.step_down(FULL)
    assert size.smaller(FULL, LargeBodyError("too large"), 1) is FULL


def test_links_that_may_not_change_are_followed_as_they_come() -> None:
    """A cursor lost over a changed size is told from any other, once; then links stay."""
    size = PageSize(1000)
    assert not size.is_refused(LINK)
    size.smaller(LINK, ServerError("504"), 3)
    assert page_size_of(size.fitted(LINK)) == 250
    assert size.is_refused(LINK)
    assert size.fitted(LINK) is LINK
    assert size_of(size) == 250
    assert not size.is_refused(LINK)
    assert size.smaller(LINK, ServerError("504"), 3) is LINK

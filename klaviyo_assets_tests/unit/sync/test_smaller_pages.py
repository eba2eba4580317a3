"""A page size that Klaviyo refuses: what becomes of the request that had it."""

import pytest

from klaviyo_assets.api.messages import Request
from klaviyo_assets.api.requests import requested_page_size
from klaviyo_assets.api.retry import AdaptivePageSize
from klaviyo_assets.errors import CursorLostError, PageSizeError
from klaviyo_assets.sync.context import fetch_with_smaller_pages
from klaviyo_assets_tests.unit.api.test_page_size import FULL, LINK


def refuse_more_than_200(request: Request) -> int | None:
    """Return the request's page size; more than 200 is refused."""
    size = requested_page_size(request)
    if size is not None and size > 200:
        raise PageSizeError("page_size must be at most 200")
    return size


def test_a_first_page_is_halved_until_it_is_taken() -> None:
    """And the next one begins with what was taken."""
    size = AdaptivePageSize(1000)
    assert fetch_with_smaller_pages(FULL, size, refuse_more_than_200) == 125
    assert requested_page_size(size.resize(FULL)) == 125


def test_a_link_that_may_not_be_changed_is_a_lost_cursor() -> None:
    """Another reader learned that links must stay as they are: this one's window starts again."""
    size = AdaptivePageSize(1000)
    assert size.step_down(FULL)
    assert size.note_lost_cursor(LINK)
    assert size.resize(LINK) is LINK
    with pytest.raises(CursorLostError, match="at most 200"):
        fetch_with_smaller_pages(LINK, size, refuse_more_than_200)

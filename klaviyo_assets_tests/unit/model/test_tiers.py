"""The tiers are Klaviyo's."""

from itertools import pairwise

from klaviyo_assets.model.tiers import REPORT, XL, XS, L, M, S


def test_a_larger_tier_allows_more() -> None:
    """From XS to XL each tier lets more through, in a second and in a minute."""
    for smaller, larger in pairwise((XS, S, M, L, XL)):
        assert smaller.burst < larger.burst
        assert smaller.steady < larger.steady


def test_a_minute_is_not_sixty_full_seconds() -> None:
    """The steady limit binds before the burst does, so both have to be kept."""
    for tier in (XS, S, M, L, XL, REPORT):
        assert tier.burst < tier.steady < 60 * tier.burst


def test_only_reports_are_limited_by_the_day() -> None:
    """A report costs one of 225 requests a day; nothing else has such a limit."""
    assert (REPORT.burst, REPORT.steady, REPORT.daily) == (1, 2, 225)
    assert [tier.daily for tier in (XS, S, M, L, XL)] == [None] * 5

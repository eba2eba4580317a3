"""The tiers are Klaviyo's."""

from itertools import pairwise

from klaviyo_assets.model.stream import TIER_L, TIER_M, TIER_REPORT, TIER_S, TIER_XL, TIER_XS


def test_a_larger_tier_allows_more() -> None:
    """From XS to XL each tier lets more through, in a second and in a minute."""
    for smaller, larger in pairwise((TIER_XS, TIER_S, TIER_M, TIER_L, TIER_XL)):
        assert smaller.burst < larger.burst
        assert smaller.steady < larger.steady


def test_a_minute_is_not_sixty_full_seconds() -> None:
    """The steady limit binds before the burst does, so both are enforced."""
    for tier in (TIER_XS, TIER_S, TIER_M, TIER_L, TIER_XL, TIER_REPORT):
        assert tier.burst < tier.steady < 60 * tier.burst


def test_only_reports_are_limited_by_the_day() -> None:
    """A report costs one of 225 requests a day; nothing else has such a limit."""
    assert (TIER_REPORT.burst, TIER_REPORT.steady, TIER_REPORT.daily) == (1, 2, 225)
    assert [tier.daily for tier in (TIER_XS, TIER_S, TIER_M, TIER_L, TIER_XL)] == [None] * 5

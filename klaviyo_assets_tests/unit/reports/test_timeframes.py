"""Requested time frames are few, as long as allowed, and have no day that is not over."""

from datetime import date

from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.model.report import DateRange
from klaviyo_assets.reports.calendar import choose_timeframes
from klaviyo_assets_tests.unit.reports.simulated_account import day_of_year, days_of_year

YEAR = days_of_year(0, 364)
day_sets = st.sets(st.integers(-20, 400).map(day_of_year), max_size=80)
lengths = st.sampled_from([1, 7, 60, 365])


def fewest(wanted: set[date], most_days: int) -> int:
    """Return how few time frames would do, by walking from the oldest day on."""
    count, reached = 0, date.min
    for each in sorted(wanted):
        if each > reached:
            count += 1
            reached = date.fromordinal(each.toordinal() + most_days - 1)
    return count


@given(day_sets, lengths)
def test_all_days_wanted_are_covered_by_the_fewest(wanted: set[date], most_days: int) -> None:
    """Every day within the bounds is in a time frame, and no smaller number would do."""
    frames = choose_timeframes(wanted, bounds=YEAR, max_days=most_days)
    allowed = {each for each in wanted if each in YEAR}
    assert allowed <= {each for frame in frames for each in frame}
    assert len(frames) == fewest(allowed, most_days)
    assert list(frames) == sorted(frames, reverse=True)


@given(day_sets, lengths)
def test_no_frame_is_longer_or_leaves_the_bounds(wanted: set[date], most_days: int) -> None:
    """Klaviyo refuses longer ones, and days outside are not over or before the reports' start."""
    for frame in choose_timeframes(wanted, bounds=YEAR, max_days=most_days):
        assert len(frame) == min(most_days, len(YEAR))
        assert YEAR.first <= frame.first
        assert frame.last <= YEAR.last


@given(st.integers(0, 358), st.permutations(range(7)))
def test_siblings_of_a_week_pay_once(first: int, order: list[int]) -> None:
    """Seven runs of a day each, in any order, are served by the response of the first."""
    (frame,) = choose_timeframes([day_of_year(first + order[0])], bounds=YEAR, max_days=60)
    assert all(day_of_year(first + number) in frame for number in order)


@given(day_sets, day_sets, lengths)
def test_siblings_that_know_each_other_share_one_set(
    wanted: set[date], others: set[date], most_days: int
) -> None:
    """Runs of one backfill that know all its days together request what one run would."""
    everything = wanted | others
    requested: set[DateRange] = set()
    for part in (wanted, others):
        requested.update(
            choose_timeframes(part, bounds=YEAR, max_days=most_days, sibling_days=everything)
        )
    assert requested == set(choose_timeframes(everything, bounds=YEAR, max_days=most_days))


def test_a_year_of_a_series_costs_seven() -> None:
    """365 days at 60 a request, in the chunks that a backfill is cut into, cost seven requests."""
    chunks = [days_of_year(0, 179), days_of_year(180, 359), days_of_year(360, 364)]
    assert len(choose_timeframes(YEAR, bounds=YEAR, max_days=60)) == 7
    assert sum(len(choose_timeframes(chunk, bounds=YEAR, max_days=60)) for chunk in chunks) == 7


def test_a_year_of_totals_costs_one() -> None:
    """365 days at a year a request cost one."""
    assert choose_timeframes(YEAR, bounds=YEAR, max_days=365) == (YEAR,)

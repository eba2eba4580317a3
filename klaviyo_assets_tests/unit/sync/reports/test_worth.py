"""What is due is fetched in the order of its worth, and only as far as the quota reaches."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.sync.reports.worth import Errand, affordable, due_days, errands
from klaviyo_assets_tests.unit.sync.reports.world import day, days

ZONE = ZoneInfo("America/Los_Angeles")
YEAR = days(0, 364)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is stored of a day."""

    fetched_at: datetime
    is_final: bool


def test_missing_and_moving_days_are_due() -> None:
    """A day is due if it is missing, or if it still moves and was not fetched today."""
    now = datetime(2026, 12, 31, 12, tzinfo=UTC)
    today, before = now - timedelta(hours=1), now - timedelta(days=1)
    stored = {
        day(0): Facts(before, is_final=True),
        day(1): Facts(before, is_final=False),
        day(2): Facts(today, is_final=False),
    }
    assert due_days(stored, bounds=days(0, 3), now=now, zone=ZONE) == {day(1), day(3)}


def test_today_is_the_accounts_today() -> None:
    """At 02:00 UTC it is still yesterday in Los Angeles: what was fetched then is of today."""
    now = datetime(2026, 12, 31, 2, tzinfo=UTC)
    stored = {day(0): Facts(now - timedelta(hours=6), is_final=False)}
    assert due_days(stored, bounds=days(0, 0), now=now, zone=ZONE) == frozenset()


def test_yesterday_of_every_metric_comes_before_the_past() -> None:
    """The newest time frame of each metric first, the revenue metric's before the rest."""
    due = {"revenue": frozenset(days(0, 119)), "other": frozenset(days(60, 119))}
    assert errands(due, bounds=days(0, 119), most_days=60) == [
        Errand("revenue", days(60, 119)),
        Errand("other", days(60, 119)),
        Errand("revenue", days(0, 59)),
    ]


@given(
    st.dictionaries(
        st.sampled_from(["a", "b"]), st.sets(st.integers(0, 364).map(day)).map(frozenset)
    )
)
def test_everything_due_is_in_an_errand(due: dict[str, frozenset[date]]) -> None:
    """No day due is forgotten, and no errand is longer than one request."""
    found = errands(due, bounds=YEAR, most_days=60)
    assert all(len(errand.days) <= 60 for errand in found)
    for metric_id, wanted in due.items():
        held = {each for errand in found if errand.metric_id == metric_id for each in errand.days}
        assert wanted <= held


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(0, 100))
def test_never_more_than_is_left(costs: list[int], left: int) -> None:
    """The longest beginning that the quota can pay is taken, and not one more."""
    wanted = [Errand(f"m{n}", days(n, n)) for n in range(len(costs))]
    prices = iter(costs)
    taken = affordable(wanted, left=left, cost=lambda _: next(prices))
    assert taken == list(zip(wanted, costs, strict=True))[: len(taken)]
    assert sum(costs[: len(taken)]) <= left
    assert len(taken) == len(wanted) or sum(costs[: len(taken) + 1]) > left

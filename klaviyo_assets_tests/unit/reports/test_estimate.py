"""The estimate of a fetch is what the fetch then costs."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

from hypothesis import example, given
from hypothesis import strategies as st

from klaviyo_assets.model.report import DateRange
from klaviyo_assets.reports.backfill_plan import RequestRate, requests_per_minute
from klaviyo_assets.reports.bisect import ReportQuery
from klaviyo_assets.reports.planner import (
    PartitionRequest,
    PlannerInputs,
    RequestCost,
    estimate_cost,
    resolve_days,
)
from klaviyo_assets.reports.send_schedule import (
    SEND_TIME_TEST,
    CampaignSchedule,
    SendDays,
    derive_message_days,
    derive_possible_days,
    send_days_from_json,
)
from klaviyo_assets.settings import Settings
from klaviyo_assets.streams import STREAMS
from klaviyo_assets_tests.unit.reports.simulated_account import (
    REQUESTED_AT,
    SimulatedAccount,
    day_of_year,
    days_of_year,
)
from klaviyo_assets_tests.unit.reports.test_allocation import worlds
from klaviyo_assets_tests.unit.reports.test_planner import SERIES, VALUES, YEAR, Klaviyo

METRICS = tuple(f"metric{n}" for n in range(20))


def build_requests(
    wanted: frozenset[date], metrics: tuple[str, ...] = METRICS
) -> list[PartitionRequest]:
    """Return the same days wanted of several metrics."""
    return [PartitionRequest(metric_id=each, days=wanted) for each in metrics]


def campaigns(world: SimulatedAccount) -> list[CampaignSchedule]:
    """Return a sent campaign of one message for each of a world's messages."""
    return [
        CampaignSchedule(id=name, status="Sent", channel="email", message_ids=(name,))
        for name in world.recipients_by_day
    ]


def count_requests(world: SimulatedAccount, wanted: frozenset[date], inputs: PlannerInputs) -> int:
    """Return how many requests three metrics really take."""
    requests = 0
    requested: set[DateRange] = set()
    for each in build_requests(wanted, METRICS[:3]):
        klaviyo = Klaviyo(world, requested=requested)
        for _ in resolve_days(each, inputs, klaviyo):
            pass
        requests += len(klaviyo.turns)
    return requests


def test_a_year_of_series_of_twenty_metrics() -> None:
    """365 days x 20 metrics of flow series are announced as 140 requests."""
    assert estimate_cost(build_requests(frozenset(YEAR)), SERIES, fetch_times={}) == RequestCost(
        140, 140
    )


def test_kept_answers_are_not_counted() -> None:
    """What is there already costs nothing."""
    cached = {METRICS[0]: {ReportQuery(days_of_year(300, 359), ()): REQUESTED_AT}}
    assert estimate_cost(
        build_requests(frozenset(days_of_year(310, 320))), SERIES, fetch_times=cached
    ) == RequestCost(19, 19)


def account(*, spread: int) -> SimulatedAccount:
    """Return 1,000 campaigns over a year, of which the last `spread` were sent over two days."""
    sent = {f"c{n:03}": {day_of_year(n % 364): 100} for n in range(1000)}
    claims: dict[str, DateRange] = {
        name: DateRange(min(when), min(when)) for name, when in sent.items()
    }
    for number in range(spread):
        name, first = f"c{999 - number:03}", 18 * number
        sent[name] = {day_of_year(first): 60, day_of_year(first + 1): 40}
        claims[name] = days_of_year(first, first + 1)
    return SimulatedAccount(sent, claims)


def test_a_thousand_campaigns_sent_within_days() -> None:
    """Twenty metrics over a year cost twenty requests where no campaign is spread."""
    world = account(spread=0)
    inputs = PlannerInputs(
        report=VALUES,
        bounds=YEAR,
        knowledge=world.build_knowledge(SendDays()),
        campaigns=campaigns(world),
    )
    found = estimate_cost(build_requests(frozenset(YEAR)), inputs, fetch_times={})
    # A campaign a day that no list has would take a request a day.
    assert found == RequestCost(20, 20, 20 * 365)


def test_a_thousand_campaigns_of_which_a_fiftieth_is_spread() -> None:
    """Twenty spread campaigns cost the first metric 41 requests, each further one 21."""
    world = account(spread=20)
    inputs = PlannerInputs(
        report=VALUES,
        bounds=YEAR,
        knowledge=world.build_knowledge(SendDays()),
        campaigns=campaigns(world),
    )
    found = estimate_cost(build_requests(frozenset(YEAR)), inputs, fetch_times={})
    assert found.max_requests == 41 + 19 * 21


@given(worlds(), st.sets(st.integers(0, 62).map(day_of_year), min_size=1).map(frozenset))
def test_what_is_announced_holds_what_is_made(
    world: SimulatedAccount, wanted: frozenset[date]
) -> None:
    """Whatever the days turn out to be, the requests made lie between the two numbers."""
    world = replace(
        world, recipients_by_day={name: world.recipients_by_day[name] for name in listed(world)}
    )
    learned = SendDays()
    inputs = PlannerInputs(
        report=VALUES,
        bounds=days_of_year(0, 62),
        knowledge=world.build_knowledge(learned),
        campaigns=campaigns(world),
    )
    cost = estimate_cost(build_requests(wanted, METRICS[:3]), inputs, fetch_times={})
    assert learned.message_keys() == []
    assert count_requests(world, wanted, inputs) <= cost.max_requests


@given(worlds(), st.sets(st.integers(0, 62).map(day_of_year), min_size=1).map(frozenset))
@example(
    # Halved once, and each half narrowed to its day.
    SimulatedAccount({f"m{n}": {day_of_year(n): 1} for n in (0, 20, 40, 62)}, {}),
    frozenset({day_of_year(0), day_of_year(62)}),
)
def test_messages_that_no_campaign_names_cost_no_more_than_announced(
    world: SimulatedAccount, wanted: frozenset[date]
) -> None:
    """Reports may have any others beside those of the stored campaigns: that is announced too."""
    inputs = PlannerInputs(
        report=VALUES,
        bounds=days_of_year(0, 62),
        knowledge=world.build_knowledge(SendDays()),
        campaigns=[each for each in campaigns(world) if each.id in listed(world)],
    )
    requests = build_requests(wanted, METRICS[:3])
    cost = estimate_cost(requests, inputs, fetch_times={})
    assert count_requests(world, wanted, inputs) <= cost.max_requests + cost.unlisted_requests
    # What a first metric has shown is known.
    shown = estimate_cost(requests, inputs, fetch_times={}, shown_days=wanted)
    assert shown.unlisted_requests == 0


@given(worlds(), st.sets(st.integers(0, 62).map(day_of_year), min_size=1).map(frozenset))
def test_what_is_known_is_announced_exactly(
    world: SimulatedAccount, wanted: frozenset[date]
) -> None:
    """Once the days are learned, the estimate is the number of requests sent."""
    world = replace(
        world,
        recipients_by_day={name: when for name, when in world.recipients_by_day.items() if when},
    )
    learned = SendDays()
    world.start_allocation(days_of_year(0, 62), days_of_year(0, 62), world.build_knowledge(learned))
    known = send_days_from_json(learned.to_json())
    inputs = PlannerInputs(
        report=VALUES,
        bounds=days_of_year(0, 62),
        knowledge=world.build_knowledge(known),
        campaigns=campaigns(world),
    )
    cost = estimate_cost(build_requests(wanted, METRICS[:3]), inputs, fetch_times={})
    assert cost.min_requests == cost.max_requests == count_requests(world, wanted, inputs)


def inputs_of_send_time_tests(*, have_times: bool) -> PlannerInputs:
    """Return a year with a test of send times every 18 days, its second variation 6 hours later."""
    campaigns: list[CampaignSchedule] = []
    for number in range(20):
        at = datetime(2026, 1, 1, 10, tzinfo=UTC) + timedelta(days=18 * number)
        times = {f"{number}a": at, f"{number}b": at + timedelta(hours=6)}
        campaigns.append(
            CampaignSchedule(
                id=f"c{number}",
                status="Sent",
                channel="email",
                send_time=at,
                send_method=SEND_TIME_TEST,
                message_ids=tuple(times),
                message_times=times if have_times else {},
            )
        )
    zone = ZoneInfo("UTC")
    possible = {each.id: derive_possible_days(each, zone) for each in campaigns}
    knowledge = replace(
        SimulatedAccount({}, possible).build_knowledge(),
        days_of_message={
            name: days
            for each in campaigns
            for name, days in derive_message_days(each, zone).items()
        },
    )
    return PlannerInputs(report=VALUES, bounds=YEAR, knowledge=knowledge, campaigns=campaigns)


def test_the_times_of_messages_spare_the_search_for_their_days() -> None:
    """A year with twenty tests of send times costs one request; without the times, 21 to 100."""
    requests = build_requests(frozenset(YEAR), METRICS[:1])
    costs = [
        estimate_cost(requests, inputs_of_send_time_tests(have_times=each), fetch_times={})
        for each in (True, False)
    ]
    assert [(each.min_requests, each.max_requests) for each in costs] == [(1, 1), (21, 100)]


def listed(world: SimulatedAccount) -> list[str]:
    """Return the messages whose campaigns tell their days."""
    return [name for name, claim in world.possible_days.items() if claim is not None]


def test_the_pace_is_that_of_the_rate_limiter() -> None:
    """A report without a daily quota is planned at our share of the minute, others at all of it."""
    aggregates, values = STREAMS["metric_aggregates"], STREAMS["campaign_values_reports"]
    assert requests_per_minute(aggregates, Settings(rate_limit_share=0.5)) == 30
    assert requests_per_minute(aggregates, Settings(rate_limit_share=1.0)) == 60
    assert requests_per_minute(values, Settings(rate_limit_share=0.5)) == 2


def test_the_quota_sets_the_pace() -> None:
    """140 requests of 225 take 70 minutes; 7,300 take 33 days at least."""
    now = datetime(2026, 11, 1, tzinfo=UTC)
    rate = RequestRate(requests_left=225, daily_limit=225, requests_per_minute=2)
    assert (rate.minutes_for(140), rate.days_for(140)) == (70, 0)
    assert rate.finish_time(140, now) == now + timedelta(minutes=70)
    assert rate.days_for(7300) == 32
    assert rate.finish_time(7300, now) == now + timedelta(days=32, minutes=50)
    assert RequestRate(requests_left=0, daily_limit=225, requests_per_minute=2).days_for(1) == 1

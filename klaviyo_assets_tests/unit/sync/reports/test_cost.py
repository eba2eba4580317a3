"""What a fetch will cost is told beforehand, by the walk that will be made."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.model.report import Days
from klaviyo_assets.sync.reports.asking import Kept
from klaviyo_assets.sync.reports.cost import Cost, Pace, cost_of
from klaviyo_assets.sync.reports.learned import Learned, learned_from_json
from klaviyo_assets.sync.reports.sending import Campaign, SentOn, Spread
from klaviyo_assets.sync.reports.walk import Terms, Wish, walk
from klaviyo_assets_tests.unit.sync.reports.test_place import worlds
from klaviyo_assets_tests.unit.sync.reports.test_walk import SERIES, VALUES, YEAR, Klaviyo
from klaviyo_assets_tests.unit.sync.reports.world import ASKED, World, day, days

METRICS = tuple(f"metric{n}" for n in range(20))


def wishes(wanted: frozenset[date], metrics: tuple[str, ...] = METRICS) -> list[Wish]:
    """Return the same days wanted of several metrics."""
    return [Wish(metric_id=each, days=wanted) for each in metrics]


def campaigns(world: World) -> list[Campaign]:
    """Return a sent campaign of one message for each of a world's messages."""
    return [
        Campaign(id=name, status="Sent", channel="email", message_ids=(name,))
        for name in world.sent
    ]


def made(world: World, wanted: frozenset[date], terms: Terms) -> int:
    """Return how many requests three metrics really take."""
    requests = 0
    asked: set[Days] = set()
    for each in wishes(wanted, METRICS[:3]):
        klaviyo = Klaviyo(world, asked=asked)
        for _ in walk(each, terms, klaviyo):
            pass
        requests += len(klaviyo.turns)
    return requests


def test_a_year_of_series_of_twenty_metrics() -> None:
    """365 days x 20 metrics of flow series are announced as 140 requests."""
    assert cost_of(wishes(frozenset(YEAR)), SERIES, kept={}) == Cost(140, 140)


def test_kept_answers_are_not_counted() -> None:
    """What is there already costs nothing."""
    kept = {METRICS[0]: [Kept(days(300, 359), ASKED)]}
    assert cost_of(wishes(frozenset(days(310, 320))), SERIES, kept=kept) == Cost(19, 19)


def shop(*, spread: int) -> World:
    """Return 1,000 campaigns over a year, of which the last `spread` were sent over two days."""
    sent = {f"c{n:03}": {day(n % 364): 100} for n in range(1000)}
    claims: dict[str, SentOn | Spread] = {name: SentOn(min(when)) for name, when in sent.items()}
    for number in range(spread):
        name, first = f"c{999 - number:03}", 18 * number
        sent[name] = {day(first): 60, day(first + 1): 40}
        claims[name] = Spread(days(first, first + 1))
    return World(sent, claims)


def test_a_thousand_campaigns_sent_within_days() -> None:
    """Twenty metrics over a year cost twenty requests where no campaign is spread."""
    world = shop(spread=0)
    terms = Terms(report=VALUES, bounds=YEAR, knowledge=world.knowledge(Learned()))
    found = cost_of(wishes(frozenset(YEAR)), terms, kept={}, campaigns=campaigns(world))
    assert found == Cost(20, 20)


def test_a_thousand_campaigns_of_which_a_fiftieth_is_spread() -> None:
    """Twenty spread campaigns cost the first metric 41 requests, each further one 21."""
    world = shop(spread=20)
    terms = Terms(report=VALUES, bounds=YEAR, knowledge=world.knowledge(Learned()))
    found = cost_of(wishes(frozenset(YEAR)), terms, kept={}, campaigns=campaigns(world))
    assert found.most == 41 + 19 * 21


@given(worlds(), st.sets(st.integers(0, 62).map(day), min_size=1).map(frozenset))
def test_what_is_announced_holds_what_is_made(world: World, wanted: frozenset[date]) -> None:
    """Whatever the days turn out to be, the requests made lie between the two numbers."""
    world = replace(world, sent={name: world.sent[name] for name in listed(world)})
    learned = Learned()
    terms = Terms(report=VALUES, bounds=days(0, 62), knowledge=world.knowledge(learned))
    told = cost_of(wishes(wanted, METRICS[:3]), terms, kept={}, campaigns=campaigns(world))
    assert learned.units() == []
    assert made(world, wanted, terms) <= told.most


@given(worlds(), st.sets(st.integers(0, 62).map(day), min_size=1).map(frozenset))
def test_what_is_known_is_announced_exactly(world: World, wanted: frozenset[date]) -> None:
    """Once the days are learned, the number announced is the number made."""
    world = replace(world, sent={name: when for name, when in world.sent.items() if when})
    learned = Learned()
    world.place(days(0, 62), days(0, 62), world.knowledge(learned))
    known = learned_from_json(learned.to_json())
    terms = Terms(report=VALUES, bounds=days(0, 62), knowledge=world.knowledge(known))
    told = cost_of(wishes(wanted, METRICS[:3]), terms, kept={}, campaigns=campaigns(world))
    assert told.least == told.most == made(world, wanted, terms)


def listed(world: World) -> list[str]:
    """Return the messages whose campaigns tell their days."""
    return [name for name, claim in world.claims.items() if isinstance(claim, SentOn | Spread)]


def test_the_quota_sets_the_pace() -> None:
    """140 requests of 225 take 70 minutes; 7,300 take 33 days at least."""
    now = datetime(2026, 11, 1, tzinfo=UTC)
    pace = Pace(left=225, limit=225, a_minute=2)
    assert (pace.minutes(140), pace.days(140)) == (70, 0)
    assert pace.done_at(140, now) == now + timedelta(minutes=70)
    assert pace.days(7300) == 32
    assert pace.done_at(7300, now) == now + timedelta(days=32, minutes=50)
    assert Pace(left=0, limit=225, a_minute=2).days(1) == 1

"""Windows read side by side cost few requests in every mixture of records, and hide latency."""

from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klaviyo_assets.api.limits import tier_limits
from klaviyo_assets.model.stream import TIER_L, WHOLE_COLLECTION
from klaviyo_assets.model.window import Window
from klaviyo_assets.sync.window_reader import CURSOR_SAFETY_MARGIN, WindowReader
from klaviyo_assets.sync.workers import WindowScheduler
from klaviyo_assets_tests.unit.sync.simulation import (
    DAY_SECONDS,
    Burst,
    SimulatedKlaviyo,
    SimulationResult,
    SimulationSettings,
    merge_bursts,
    simulate,
    simulated_time,
)
from klaviyo_assets_tests.unit.sync.test_window_reader import Shelf, request_context

HOUR = 3_600

MIXTURES: dict[str, tuple[int, list[int]]] = {
    "import then drizzle": (
        100,
        merge_bursts(
            Burst(1000, 10 * DAY_SECONDS, 10), Burst(50, 10 * DAY_SECONDS + 20, 300 * DAY_SECONDS)
        ),
    ),
    "150 in one second": (100, merge_bursts(Burst(150, 100 * DAY_SECONDS, 1))),
    "3,000 in one second": (
        100,
        merge_bursts(Burst(3000, 100 * DAY_SECONDS, 1), Burst(20, 0, 300 * DAY_SECONDS)),
    ),
    "nights": (100, merge_bursts(*(Burst(500, night * DAY_SECONDS, 20) for night in range(30)))),
    "sends": (
        1000,
        merge_bursts(*(Burst(2500, week * 7 * DAY_SECONDS, 600) for week in range(10))),
    ),
    "hourly after an import": (100, merge_bursts(Burst(250, HOUR // 2, 2))),
    "hourly after a send": (1000, merge_bursts(Burst(5000, 600, 60), Burst(1500, 0, 3456))),
    "a decade of nothing": (
        100,
        merge_bursts(Burst(1, 0, 1), Burst(20_000, 3650 * DAY_SECONDS, 100 * DAY_SECONDS)),
    ),
    "a large import": (
        100,
        merge_bursts(
            Burst(20_000, 10 * DAY_SECONDS, HOUR), Burst(90, 11 * DAY_SECONDS, 300 * DAY_SECONDS)
        ),
    ),
    "even": (100, merge_bursts(Burst(20_000, 0, 300 * DAY_SECONDS))),
}
"""Page size and seconds of records."""


def timeline_of(seconds: list[int], page_size: int, *, rest: int = HOUR) -> SimulatedKlaviyo:
    """Return a timeline of one slice, looked at some seconds after its last record."""
    return SimulatedKlaviyo(
        {WHOLE_COLLECTION.name: seconds}, page_size, max(seconds, default=0) + rest
    )


def allowed_requests(timeline: SimulatedKlaviyo) -> float:
    """Return how many requests the issue allows: pages, a tenth of them, and ten."""
    return 1.1 * timeline.min_requests() + 10


def assert_complete_outcome(timeline: SimulatedKlaviyo, outcome: SimulationResult) -> None:
    """Fail where a record is missing or came twice, a mark lies behind, or too much was asked."""
    for name, seconds in timeline.slices.items():
        assert sorted(outcome.ids[name]) == list(range(len(seconds)))
    assert outcome.progress.finished_slices == set(timeline.slices)
    assert outcome.requests <= allowed_requests(timeline) + 1e-6
    settled = simulated_time(timeline.now) - CURSOR_SAFETY_MARGIN
    seconds = [each for found in timeline.slices.values() for each in found]
    marks = [simulated_time(each) for each in seconds if simulated_time(each) <= settled]
    assert outcome.progress.high_water_mark == max(marks, default=None)


def bursts(most_records: int) -> st.SearchStrategy[Burst]:
    """Make bursts of every length, from a second to years, anywhere in a decade."""
    spans = st.one_of(
        st.just(1), st.integers(1, 60), st.integers(1, HOUR), st.integers(1, 1000 * DAY_SECONDS)
    )
    starts = st.one_of(st.integers(0, 3650 * DAY_SECONDS), st.integers(0, HOUR))
    return st.builds(Burst, st.integers(1, most_records), starts, spans)


worlds = st.builds(
    SimulationSettings,
    workers=st.integers(1, 20),
    latency_seconds=st.sampled_from((0.0, 0.02, 0.15, 2.0)),
    decode_seconds=st.sampled_from((0.0, 0.005, 0.3)),
)


@settings(max_examples=100)
@given(
    parts=st.lists(bursts(300), max_size=10),
    page_size=st.integers(1, 60),
    rest=st.sampled_from((0, 60, HOUR, 400 * DAY_SECONDS)),
    world=worlds,
    looks_ahead=st.booleans(),
)
def test_every_mixture_costs_its_pages_a_tenth_and_ten(
    *, parts: list[Burst], page_size: int, rest: int, world: SimulationSettings, looks_ahead: bool
) -> None:
    """Whatever lies where, each record comes once, and few requests come to nothing."""
    timeline = timeline_of(merge_bursts(*parts), page_size, rest=rest)
    timeline.has_next_links = looks_ahead
    assert_complete_outcome(timeline, simulate(timeline, world))


@settings(max_examples=40)
@given(
    slices=st.lists(st.lists(bursts(150), max_size=4), min_size=1, max_size=6),
    page_size=st.integers(1, 40),
    world=worlds,
)
def test_slices_share_what_may_be_spent(
    slices: list[list[Burst]], page_size: int, world: SimulationSettings
) -> None:
    """Metrics requested one by one cost a request each at least, and together no more than ten."""
    found = {f"metric {number}": merge_bursts(*parts) for number, parts in enumerate(slices)}
    now = max((each for seconds in found.values() for each in seconds), default=0) + HOUR
    timeline = SimulatedKlaviyo(found, page_size, now)
    outcome = simulate(timeline, world)
    for name, seconds in found.items():
        assert sorted(outcome.ids[name]) == list(range(len(seconds)))
    assert outcome.requests <= allowed_requests(timeline) + 1e-6


@settings(max_examples=40)
@given(
    parts=st.lists(bursts(400), max_size=8),
    page_size=st.integers(1, 40),
    start=st.integers(0, 4000 * DAY_SECONDS),
    span=st.integers(1, 1000 * DAY_SECONDS),
)
def test_a_window_read_again_costs_its_own_pages(
    parts: list[Burst], page_size: int, start: int, span: int
) -> None:
    """`start` and `end` are respected, and the same bound holds between them."""
    seconds = merge_bursts(*parts)
    timeline = timeline_of(seconds, page_size)
    outcome = simulate(timeline, SimulationSettings(), windows=[(start, start + span)])
    inside = [at for at, second in enumerate(seconds) if start <= second < start + span]
    assert sorted(outcome.ids[WHOLE_COLLECTION.name]) == inside
    assert outcome.requests <= 1.1 * max(1, ceil(len(inside) / page_size)) + 10 + 1e-6


@settings(max_examples=40)
@given(
    parts=st.lists(bursts(300), max_size=8),
    page_size=st.integers(1, 40),
    cuts=st.lists(st.integers(0, 4000 * DAY_SECONDS), min_size=2, max_size=20, unique=True),
)
def test_what_a_killed_run_left_costs_its_own_pages(
    parts: list[Burst], page_size: int, cuts: list[int]
) -> None:
    """Windows that were not read are read, one request each at least, and no others."""
    seconds = merge_bursts(*parts)
    ends = sorted(cuts)
    left = list(zip(ends[::2], ends[1::2], strict=False))
    timeline = timeline_of(seconds, page_size)
    outcome = simulate(timeline, SimulationSettings(), windows=left)
    inside = [at for at, each in enumerate(seconds) if any(a <= each < b for a, b in left)]
    assert sorted(outcome.ids[WHOLE_COLLECTION.name]) == inside
    least = max(1, ceil(len(inside) / page_size))
    # Each window is a request, whatever was left in it: that many cannot be saved.
    assert outcome.requests <= max(1.1 * least + 10, least + len(left) - 1) + 1e-6


@pytest.mark.parametrize("weeks", [5, 20, 60])
def test_sends_that_fill_whole_pages(weeks: int) -> None:
    """Where no last page has a record, each window costs a request, and that is reckoned with."""
    sends = [Burst(2000, week * 7 * DAY_SECONDS, 600) for week in range(weeks)]
    timeline = timeline_of(merge_bursts(*sends), 1000)
    timeline.has_next_links = False
    assert_complete_outcome(timeline, simulate(timeline, SimulationSettings()))


@pytest.mark.parametrize("name", MIXTURES)
def test_known_mixtures(name: str) -> None:
    """Each costs its pages, a tenth and ten at most, and takes no longer than one reader."""
    page_size, seconds = MIXTURES[name]
    timeline = timeline_of(seconds, page_size)
    outcome = simulate(timeline, SimulationSettings())
    assert_complete_outcome(timeline, outcome)
    alone = simulate(timeline_of(seconds, page_size), SimulationSettings(workers=1))
    assert alone.requests == timeline.min_requests()
    # A page that is decoded meanwhile may come before one that is waited for.
    assert outcome.seconds <= alone.seconds * 1.05


def test_a_crowd_is_put_to_the_test_by_one_part() -> None:
    """An import of 250 within two seconds, an hour that is else empty: three pages, one or two."""
    page_size, seconds = MIXTURES["hourly after an import"]
    timeline = timeline_of(seconds, page_size, rest=HOUR // 2)
    assert simulate(timeline, SimulationSettings(workers=2)).requests <= 4
    timeline = timeline_of(seconds, page_size, rest=HOUR // 2)
    assert simulate(timeline, SimulationSettings()).requests <= 5


@pytest.mark.parametrize(
    ("pages", "requests", "seconds"),
    [(8, 10, 0.8), (20, 25, 0.67), (50, 60, 1.02), (200, 220, 2.45), (500, 530, 5.0)],
)
def test_even_data_is_read_side_by_side_at_once(pages: int, requests: int, seconds: float) -> None:
    """At 150 ms a page, evenly spread records take a few pages' time beyond a fair share of it.

    Halving the busiest window, whatever that cost in other mixtures, took 0.8, 0.7, 0.9, 2.2, 4.6.
    """
    timeline = timeline_of(merge_bursts(Burst(pages * 100, 0, 300 * DAY_SECONDS)), 100)
    outcome = simulate(timeline, SimulationSettings())
    assert_complete_outcome(timeline, outcome)
    assert outcome.requests <= requests
    assert outcome.seconds <= seconds


def test_a_crowd_that_lasts_is_read_side_by_side() -> None:
    """An import of 200 pages within an hour, then a drizzle: parallel after some tests, soon."""
    page_size, seconds = MIXTURES["a large import"]
    timeline = timeline_of(seconds, page_size)
    assert simulate(timeline, SimulationSettings()).seconds < 0.3 * timeline.min_requests() * 0.15


def test_a_decade_of_nothing_slows_nothing_down() -> None:
    """One record ten years before all others: the gap says nothing of what lies behind it."""
    page_size, seconds = MIXTURES["a decade of nothing"]
    timeline = timeline_of(seconds, page_size)
    assert simulate(timeline, SimulationSettings()).seconds < 3


def test_a_start_date_before_the_first_record_slows_nothing_down() -> None:
    """A window of the plan that begins years before its records is read side by side as well."""
    seconds = merge_bursts(Burst(20_000, 3650 * DAY_SECONDS, 100 * DAY_SECONDS))
    timeline = timeline_of(seconds, 100)
    assert simulate(timeline, SimulationSettings(), windows=[(0, None)]).seconds < 3


def test_published_limits_are_not_waited_for_longer() -> None:
    """Under Klaviyo's limits a mixture takes no longer side by side than page by page."""
    limits = tier_limits(TIER_L, share=0.9, scale=1.0)
    for page_size, seconds in MIXTURES.values():
        timeline = timeline_of(seconds, page_size)
        outcome = simulate(timeline, SimulationSettings(limits=limits))
        alone = simulate(
            timeline_of(seconds, page_size), SimulationSettings(limits=limits, workers=1)
        )
        assert outcome.seconds <= alone.seconds * 1.05
        assert outcome.requests <= allowed_requests(timeline)


def test_no_window_is_split_before_its_first_page() -> None:
    """Before its first response a window is not split: its density is unknown."""
    shelf = Shelf(list(range(5000)), 100)
    scheduler = WindowScheduler.from_readers(
        [WindowReader(request_context(shelf), WHOLE_COLLECTION, Window())]
    )
    first = scheduler.take_reader(idle_workers=20)
    assert first is not None
    assert scheduler.take_reader(idle_workers=19) is None
    next(first.read_pages())
    scheduler.record_page(first)
    assert scheduler.take_reader(idle_workers=19) is not None

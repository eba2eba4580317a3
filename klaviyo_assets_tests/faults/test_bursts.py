"""Accounts with bursts of records: a sync over HTTP sends few requests more than its pages.

At 50 ms a page and without rate limits, where reading side by side is worth most and so costs most.
`make bench` measures the same at 150 ms and under Klaviyo's limits.
"""

from collections import Counter
from dataclasses import dataclass
from math import ceil

import pytest

from klaviyo_assets.sandbox.account.config import BURST_PRESETS, Burst
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home

DAY = 86_400
LATENCY_MS = 50
NIGHTS, SENDS = 10, 4
"""Of the presets' 30 and 10: each burst is met in the same way."""

PAGE_SIZE = {"events": 1000, "profiles": 100}


@dataclass(frozen=True, slots=True)
class Case:
    """A stream and when its records come, in seconds from the sandbox's first moment."""

    stream: str
    bursts: tuple[Burst, ...]


FIRST_SYNCS = {
    "import, then a drizzle": Case(
        "profiles",
        (
            Burst(records=1_000, start=-300 * DAY, seconds=10),
            Burst(records=50, start=-300 * DAY + 20, seconds=299 * DAY),
        ),
    ),
    "150 in one second": Case("profiles", (Burst(records=150, start=-100 * DAY),)),
    "nights": Case("profiles", BURST_PRESETS["imports"].profiles[:NIGHTS]),
    "sends": Case("events", BURST_PRESETS["sends"].events[:SENDS]),
    "a decade of nothing": Case("profiles", BURST_PRESETS["decade"].profiles),
    "3,000 events in one second": Case("events", BURST_PRESETS["second"].events),
    "3,000 profiles in one second": Case("profiles", BURST_PRESETS["second"].profiles),
}

HOURLY_SYNCS = {
    "after an import": Case("profiles", (Burst(records=250, start=1_800, seconds=2),)),
    "after a send": Case(
        "events",
        (
            Burst(records=5_000, start=1_200, seconds=60),
            Burst(records=1_500, start=60, seconds=3_456),
        ),
    ),
}


def start_home(open_home: StartHome, case: Case, *more: Burst) -> Home:
    """Give a home for an account with the records of a case, and of other bursts."""
    bursts = (*more, *case.bursts)
    kind = f"{case.stream.removesuffix('s')}_bursts"
    return open_home(latency_ms=LATENCY_MS, future_events=0, **{kind: bursts})


def most_requests(records: int, stream: str) -> float:
    """Return how many requests a sync of so many records may take."""
    return 1.1 * max(1, ceil(records / PAGE_SIZE[stream])) + 10


@pytest.mark.parametrize("name", FIRST_SYNCS)
def test_f88_a_first_sync_of_bursts_asks_for_little_more_than_its_pages(
    open_home: StartHome, name: str
) -> None:
    """Everything is there once, and requests stay within the pages, a tenth of them, and ten."""
    case = FIRST_SYNCS[name]
    home = start_home(open_home, case)
    run = home.sync(case.stream)
    assert run.success
    truth = home.account.true_ids(case.stream)
    assert len(truth) >= 150
    assert Counter(home.ids(case.stream)) == Counter(truth)
    request_count = home.account.request_counts()[f"/api/{case.stream}"]
    assert request_count == run.metadata_number(case.stream, "requests")
    assert request_count <= most_requests(len(truth), case.stream)


@pytest.mark.parametrize("name", HOURLY_SYNCS)
def test_f88_an_hourly_sync_after_a_burst_asks_for_little_more_than_its_pages(
    open_home: StartHome, name: str
) -> None:
    """What is new comes in its pages and a few requests more, wherever in the hour it lies."""
    case = HOURLY_SYNCS[name]
    home = start_home(open_home, case, Burst(records=40, start=-DAY, seconds=DAY // 2))
    assert home.sync(case.stream).success
    before = home.account.true_ids(case.stream)
    home.account.advance_clock(hours=1)
    home.account.clear_journal()
    run = home.sync(case.stream)
    assert run.success
    truth = home.account.true_ids(case.stream)
    assert len(truth - before) >= 240
    assert Counter(home.ids(case.stream)) == Counter(truth)
    # The record that the mark comes from is read again.
    request_count = home.account.request_counts()[f"/api/{case.stream}"]
    assert request_count <= most_requests(len(truth - before) + 1, case.stream)


def test_f88_an_hourly_sync_after_an_import_takes_a_request_or_two_beyond_its_pages(
    open_home: StartHome,
) -> None:
    """Under Klaviyo's limits two readers use up what there is: 250 profiles cost three or four."""
    case = HOURLY_SYNCS["after an import"]
    bursts = (Burst(records=40, start=-DAY, seconds=DAY // 2), *case.bursts)
    home = open_home(latency_ms=LATENCY_MS, rate_limit_scale=1.0, profile_bursts=bursts)
    home.settings["KLAVIYO_RATE_LIMIT_SCALE"] = "1"
    assert home.sync("profiles").success
    home.account.advance_clock(hours=1)
    home.account.clear_journal()
    assert home.sync("profiles").success
    assert len(home.ids("profiles")) == 290
    assert 3 <= home.account.request_counts()["/api/profiles"] <= 4
    assert home.account.sandbox.journal.summary()["throttled"] == 0


def test_f88_what_the_rate_limit_lets_through_is_read_by_as_many_as_it_takes(
    open_home: StartHome,
) -> None:
    """Eight requests a second are one reader's at 50 ms a page: more would only cost requests."""
    even = Burst(records=2_500, start=-300 * DAY, seconds=299 * DAY)
    home = open_home(latency_ms=LATENCY_MS, rate_limit_scale=1.0, profile_bursts=(even,))
    home.settings["KLAVIYO_RATE_LIMIT_SCALE"] = "1"
    run = home.sync("profiles")
    assert len(home.ids("profiles")) == 2_500
    # Two windows as a rule; a machine that is busy may see the limit later and open some more.
    assert 25 <= run.metadata_number("profiles", "requests") <= 30
    # Ten at once, ten after a second and a quarter, five after another.
    assert 0 < run.metadata_number("profiles", "throttled_seconds") <= 3
